// The normalised inputs of `WITH_DITAU` (sage/network/graph.py) from the 16 primary columns in float32, one event per
// lane; sage/challenge/features.py, position.py and graph.py are the definition. Included by network.cpp three times:
// what all vector widths share, the kernel once per width, and the C interface.
//
// Transverse and invariant masses are written without the differences of large numbers of the definition, so they are as
// good as float32 can be, and the visible mass exists where rounding makes its square negative there. Where the
// definition runs over in float32, at momenta above 1e19 GeV, so do they; pseudorapidities of more than 40 have a mass
// here and none there. Angles of more than kMostTurned mean nothing and are taken as that.

#if defined(SAGE_LANES)

SAGE_INLINE V zero_if_finite(V x) { return 0.0f * x; }
SAGE_INLINE V not_below(V x, float least) { return x < least ? spread(least) : x; }
SAGE_INLINE V not_above(V x, float most) { return x > most ? spread(most) : x; }
SAGE_INLINE V usual_angle(V x) { return not_above(not_below(x, -kMostTurned), kMostTurned) + zero_if_finite(x); }
// As position.py does it, bit by bit: what lies behind the bisector is at pi or -pi there and here.
SAGE_INLINE V wrapped(V angle) { return angle - kWholeTurn * whole(angle / kWholeTurn); }
SAGE_INLINE V log_input(V x) {
    x = not_below(x, 0.0f);
    return logarithm(x * (1.0f / kLogUnit) + 1.0f) + zero_if_finite(x);
}

// Sine and cosine of a difference of angles, with relative precision also where they vanish.
struct Between {
    V sine, cosine;

    SAGE_INLINE Between(V a, V b) {
        const V difference = a - b, virtual_b = a - difference;
        const V rest = (a - (difference + virtual_b)) + (virtual_b - b);
        V s, c;
        sine_cosine(difference, s, c);
        sine = s + rest * c;
        cosine = c - rest * s;
    }
    // The squared sine of half the difference.
    SAGE_INLINE V half() const {
        return cosine > V{} ? 0.5f * sine * sine / (1.0f + cosine) : 0.5f * (1.0f - cosine);
    }
};

struct Body {
    V pt, eta, phi;

    SAGE_INLINE Body(const V* in) : pt(in[0]), eta(in[1]), phi(usual_angle(in[2])) {}
    SAGE_INLINE V distance(const Body& other) const { return length(eta - other.eta, phi - other.phi); }
    SAGE_INLINE V distance(V met_phi) const { return length(eta, phi - met_phi); }
    SAGE_INLINE V invariant_mass(const Body& other, const Between& phis) const {
        const V sinh = hyperbolic_sine(0.5f * (eta - other.eta)), sum = pt + other.pt;
        return root(4.0f * (pt * other.pt) * (sinh * sinh + phis.half())) + zero_if_finite(sum * sum);
    }
    static SAGE_INLINE V length(V d_eta, V d_phi) {
        d_phi = wrapped(d_phi);
        return root(d_eta * d_eta + d_phi * d_phi);
    }
};

SAGE_INLINE V met_centrality(const Between& had_lep, const Between& met_lep, const Between& had_met) {
    const V one = spread(1.0f);
    const I singular = (had_lep.sine == V{}) | ((met_lep.sine == V{}) & (had_met.sine == V{}));
    // The lepton moves by kEpsilon, whose cosine is 1.
    const V open = singular ? had_lep.sine - kEpsilon * had_lep.cosine : had_lep.sine;
    const V beside = singular ? met_lep.sine - kEpsilon * met_lep.cosine : met_lep.sine;
    const V side = open > V{} ? one : open < V{} ? -one : open;
    const V a = beside * side, b = had_met.sine * side, norm = root(a * a + b * b);
    return norm == V{} ? spread(kUndefined) : (a + b) / norm;
}

SAGE_INLINE V eta_centrality(V eta, V first, V second) {
    V gap2 = (first - second) * (first - second);
    gap2 = gap2 == V{} ? spread(kEpsilon) : gap2;
    // Where it matters, these differences are exact.
    const V off = 0.5f * ((eta - first) + (eta - second));
    return exponential(-4.0f / gap2 * (off * off));
}

// One vector of events' inputs in their order, of which jets each needs, and whether its logarithm is the input.
struct Inputs {
    V value[kInputs];
    I exists[kInputs];
    bool logarithmic[kInputs];
    int size;

    SAGE_INLINE void put(V number, I known) { add(number, known, false); }
    SAGE_INLINE void put_log(V number, I known) { add(number, known, true); }
    SAGE_INLINE void add(V number, I known, bool log) {
        value[size] = number;
        exists[size] = known;
        logarithmic[size++] = log;
    }
};

SAGE_INLINE void write(float* column, V value, int full) {
    if (full == kLanes) {
        memcpy(column, &value, sizeof value);
    } else {
        memcpy(column, &value, static_cast<size_t>(full) * sizeof(float));
    }
}

void run_inputs(const DitauConstants& k, const InputsBatch& batch) {
    for (int64_t start = 0; start < batch.n_events; start += kLanes) {
        const int64_t left = batch.n_events - start;
        const int full = left < kLanes ? static_cast<int>(left) : kLanes;
        V in[kPrimaries];
        for (int c = 0; c < kPrimaries; ++c) {
            if (full == kLanes) {
                memcpy(in + c, batch.column[c] + start, sizeof(V));
            } else {
                float lanes[kLanes];
                for (int i = 0; i < kLanes; ++i) lanes[i] = batch.column[c][start + (i < full ? i : full - 1)];
                memcpy(in + c, lanes, sizeof lanes);
            }
        }
        V seen[kDitauColumns], ditau[kDitau];
        memcpy(seen, in, 6 * sizeof(V));
        memcpy(seen + 6, in + kAllPt, 3 * sizeof(V));
        ditau_quantities(k, seen, ditau);

        const Body lep(in), had(in + 3), jet1(in + 6), jet2(in + 9);
        const V n_jets = in[kNJets], all_pt = in[kAllPt], met = in[kMissing], met_phi = usual_angle(in[kMissingPhi]);
        const V one = spread(1.0f);
        const V any = n_jets >= 1.0f ? one : V{}, pair = n_jets >= 2.0f ? one : V{};
        const V no_pair = n_jets < 2.0f ? spread(kUndefined) : V{};
        const I always = one == one, first = jet1.pt > V{}, second = jet2.pt > V{}, both = first & second;

        V s, c, x, y;
        sine_cosine(lep.phi, s, c);
        x = lep.pt * c, y = lep.pt * s;
        sine_cosine(had.phi, s, c);
        x += had.pt * c, y += had.pt * s;
        sine_cosine(met_phi, s, c);
        x += met * c, y += met * s;
        const V pt_h = root(x * x + y * y);
        sine_cosine(jet1.phi, s, c);
        x += jet1.pt * c * any, y += jet1.pt * s * any;
        sine_cosine(jet2.phi, s, c);
        x += jet2.pt * c * pair, y += jet2.pt * s * pair;
        const V pt_tot = root(x * x + y * y);

        const Between had_lep(had.phi, lep.phi), met_lep(met_phi, lep.phi), had_met(had.phi, met_phi);
        const V mt2 = 4.0f * (met * lep.pt) * met_lep.half(), sum = met + lep.pt;
        const V mt = root(not_below(mt2, 0.0f)) + zero_if_finite(sum * sum);
        const V m_vis = lep.invariant_mass(had, had_lep);
        const V m_jj = jet1.invariant_mass(jet2, Between(jet1.phi, jet2.phi)) * pair + no_pair;
        const V centrality = eta_centrality(lep.eta, jet1.eta, jet2.eta) * pair + no_pair;

        const V half = 0.5f * wrapped(lep.phi - had.phi), axis = had.phi + half;
        const V mirror_phi = half < V{} ? -one : one, mirror_eta = lep.eta + had.eta < V{} ? -one : one;

        // In the order of graph.py: the deterministic branch, then the other; nodes, edges, globals.
        Inputs all;
        all.size = 0;
        all.put_log(lep.pt, always);
        all.put(lep.eta * mirror_eta, always);
        all.put(half * mirror_phi, always);
        all.put(had.eta * mirror_eta, always);
        all.put(-half * mirror_phi, always);
        all.put(jet1.eta * mirror_eta, first);
        all.put(wrapped(jet1.phi - axis) * mirror_phi, first);
        all.put(jet2.eta * mirror_eta, second);
        all.put(wrapped(jet2.phi - axis) * mirror_phi, second);
        all.put(had.distance(jet1), first);
        all.put(had.distance(jet2), second);
        all.put(lep.distance(jet1), first);
        all.put(lep.distance(jet2), second);
        all.put(jet1.distance(jet2), both);
        all.put(lep.distance(had), always);
        all.put(centrality, both);

        all.put_log(had.pt, always);
        all.put_log(jet1.pt, first);
        all.put_log(jet2.pt, second);
        all.put_log(met, always);
        all.put(wrapped(met_phi - axis) * mirror_phi, always);
        all.put(had.distance(met_phi), always);
        all.put(lep.distance(met_phi), always);
        all.put_log(mt, always);
        all.put(jet1.distance(met_phi), first);
        all.put(jet2.distance(met_phi), second);
        all.put_log(m_jj, both);
        all.put(lep.pt / had.pt, always);
        all.put_log(m_vis, always);
        all.put(n_jets, always);
        all.put_log(pt_tot, always);
        all.put_log(pt_h, always);
        all.put_log(had.pt + lep.pt + all_pt, always);
        all.put(met_centrality(had_lep, met_lep, had_met), always);
        all.put_log(all_pt, always);
        for (int i = 0; i < kDitau; ++i) all.add(ditau[i], always, kLogarithmic[i]);

        for (int i = 0; i < kInputs; ++i) {
            const V value = all.logarithmic[i] ? log_input(all.value[i]) : all.value[i];
            const I known = all.exists[i] & (value - value == V{});
            const V normalised = (value - batch.mean[i]) * batch.scale[i];
            write(batch.out + i * batch.n_events + start, known ? normalised : V{}, full);
        }
        write(batch.derived + start, mt, full);
        write(batch.derived + batch.n_events + start, m_vis, full);
        write(batch.derived + 2 * batch.n_events + start, pt_h, full);
    }
}

#elif !defined(SAGE_INPUTS)
#define SAGE_INPUTS

namespace {

// The primary columns in the order of sage/challenge/shifts.py: pt, eta, phi of lepton, tau and two jets, then these.
enum PrimaryColumn { kNJets = 12, kAllPt, kMissing, kMissingPhi, kPrimaries };

constexpr int kInputs = inputs(kDitauGlobals);
constexpr bool kLogarithmic[kDitau] = {false, false, true, false, false, true, true, true, false, true};
constexpr float kLogUnit = 20.0f;
constexpr float kEpsilon = 1e-4f;
constexpr float kUndefined = -25.0f;
constexpr float kMostTurned = 1000.0f;
constexpr float kWholeTurn = 6.28318531f;

struct InputsBatch {
    const float* column[kPrimaries];  // each contiguous
    int64_t n_events;
    const float* mean;
    const float* scale;  // 1 / standard deviation
    float* out;          // (inputs, n), row-major
    float* derived;      // transverse mass of lepton and MET, visible mass, pt of lepton, tau and MET: (3, n)
};

}  // namespace

#else

// Version of this part of the interface and of the meaning of the inputs.
SAGE_EXPORT int32_t sage_inputs_version() { return 1; }

// Normalised inputs and what regions need of the derived quantities, see InputsBatch; constants as in DitauConstants.
// Returns 0, or which argument is wrong; nothing is written then.
SAGE_EXPORT int32_t sage_inputs(const float* constants, int64_t n_constants, const float* mean, const float* deviation,
                                int64_t n_inputs, const float* const* columns, int64_t n_columns, int64_t n_events,
                                float* out, float* derived, int32_t instruction_set) {
    if (n_constants != kDitauConstants || n_inputs != kInputs) return kWrongParameterCount;
    if (n_columns != kPrimaries || n_events < 0 || !constants || !mean || !deviation || !columns) return kBadArgument;
    const int best = best_instruction_set();
    if (instruction_set < kAutomatic || instruction_set > best) return kUnknownInstructionSet;
    if (n_events == 0) return kOk;
    if (!out || !derived) return kBadArgument;
    DitauConstants known;
    memcpy(&known, constants, sizeof known);
    float scale[kInputs];
    for (int i = 0; i < kInputs; ++i) scale[i] = 1.0f / deviation[i];
    InputsBatch batch = {{}, n_events, mean, scale, out, derived};
    memcpy(batch.column, columns, sizeof batch.column);
    switch (instruction_set == kAutomatic ? best : instruction_set) {
#if defined(__x86_64__)
        case kAvx512:
            avx512::run_inputs(known, batch);
            break;
        case kAvx2:
            avx2::run_inputs(known, batch);
            break;
#endif
        default:
            baseline::run_inputs(known, batch);
    }
    return kOk;
}

#endif
