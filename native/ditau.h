// The ten di-tau quantities of sage/challenge/ditau.py in float32, one event per lane; that module explains the formulae
// and states the constants. Included by network.cpp: below SAGE_LANES once per vector width, above it what they share.

#ifndef SAGE_LANES

namespace {

constexpr int kMasses = 15;
constexpr int kPairs = 6;  // of nodes, each with its mirror image
constexpr int kDitauColumns = 9;
constexpr int kDitau = 10;

// In the order in which sage/network/native.py writes them.
struct DitauConstants {
    float met_constant, met_jets;
    float window, floor, almost_parallel, widest, smallest, largest, largest_collinear;
    float node[kPairs], weight[kPairs];
    float mass[kMasses], mass_weight[kMasses];
    float at_z, at_h;
};
constexpr int64_t kDitauConstants = sizeof(DitauConstants) / sizeof(float);

// Columns in the order of `enum`, each contiguous; the results follow each other with a distance of `stride` elements.
enum DitauColumn { kLepPt, kLepEta, kLepPhi, kHadPt, kHadEta, kHadPhi, kJetPt, kMetPt, kMetPhi };
struct DitauBatch {
    const float* column[kDitauColumns];
    int64_t n_events;
    float* out;
    int64_t stride;
};

}  // namespace

#else

SAGE_INLINE V root(V x) {
#if defined(__clang__)
    return __builtin_elementwise_sqrt(x);
#else
    for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}
SAGE_INLINE V magnitude(V x) { return (V)((I)x & 0x7fffffff); }
SAGE_INLINE V smaller(V a, V b) { return a < b ? a : b; }
SAGE_INLINE V clip(V x, float least, float most) { return smaller(larger(x, spread(least)), spread(most)); }
// Adding 1.5 * 2^23 rounds to an integer.
SAGE_INLINE V whole(V x) { return (x + 12582912.0f) - 12582912.0f; }

// Natural logarithm of normal numbers, within about 1 ulp (coefficients of Cephes).
SAGE_INLINE V logarithm(V x) {
    const I bits = (I)x;
    V m = (V)((bits & 0x007fffff) | 0x3f000000);
    V e = __builtin_convertvector((bits >> 23) - 126, V);
    const I low = m < spread(0.707106781f);
    e = low ? e - 1.0f : e;
    m = (low ? m + m : m) - 1.0f;
    const V z = m * m;
    V p = m * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * z;
    p = e * -2.12194440e-4f + p;
    p = z * -0.5f + p;
    return e * 0.693359375f + (m + p);
}

// Sine and cosine of angles of a few turns at most; relative precision also where they vanish (Cephes).
SAGE_INLINE void sine_cosine(V x, V& sine, V& cosine) {
    const V n = whole(x * 0.636619772f);
    V r = n * -1.5703125f + x;
    r = n * -4.837512969970703e-4f + r;
    r = n * -7.549789948768648e-8f + r;
    const V z = r * r;
    V s = z * -1.9515295891e-4f + 8.3321608736e-3f;
    s = (s * z - 1.6666654611e-1f) * z * r + r;
    V c = z * 2.443315711809948e-5f - 1.388731625493765e-3f;
    c = (c * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
    const I quadrant = __builtin_convertvector(n, I);
    const I swapped = (quadrant & 1) != 0;
    const V first = swapped ? c : s, second = swapped ? s : c;
    sine = (quadrant & 2) != 0 ? -first : first;
    cosine = ((quadrant + 1) & 2) != 0 ? -second : second;
}

SAGE_INLINE V hyperbolic_sine(V x) {
    const V z = x * x, e = exponential(x);
    const V series = ((z * 1.98412698e-4f + 8.33333333e-3f) * z + 1.66666667e-1f) * z * x + x;
    return magnitude(x) < spread(0.5f) ? series : 0.5f * (e - 1.0f / e);
}

struct Pair {
    V pt_l, pt_h, cos, sin, mass, met, met_b, met_d, sigma;
};

SAGE_INLINE Pair find_pair(const DitauConstants& k, const V* in) {
    constexpr float kTurn = 6.28318531f;
    Pair p;
    p.pt_l = clip(in[kLepPt], k.smallest, k.largest);
    p.pt_h = clip(in[kHadPt], k.smallest, k.largest);
    p.met = clip(in[kMetPt], 0.0f, k.largest);
    const V phi_l = clip(in[kLepPhi], -kTurn, kTurn), phi_h = clip(in[kHadPhi], -kTurn, kTurn);
    const V phi_met = clip(in[kMetPhi], -kTurn, kTurn);

    // Half the angle between them as the sum of a rounded number and what rounding left: back to back the cosine is all
    // in the last bits.
    const V difference = phi_l - phi_h, virtual_h = phi_l - difference;
    const V rest = (phi_l - (difference + virtual_h)) + (virtual_h - phi_h);
    const V turns = whole(difference * 0.159154943f);
    const V half = 0.5f * (turns * -6.28125f + difference), tail = 0.5f * (turns * -1.93530718e-3f + rest);
    V s, c;
    sine_cosine(half, s, c);
    const V tail_s = tail - tail * tail * tail * 0.166666667f, tail_c = tail * tail * -0.5f + 1.0f;
    const V sin = s * tail_c + c * tail_s, cos = c * tail_c - s * tail_s;
    p.sin = magnitude(sin);
    p.cos = larger(cos, V{});

    V met_s, met_c;
    sine_cosine(phi_met - phi_h, met_s, met_c);
    p.met_b = p.met * (met_c * cos + met_s * sin);
    const V across = met_s * cos - met_c * sin;
    p.met_d = p.met * (half + tail < V{} ? -across : across);

    const V sinh = hyperbolic_sine(0.5f * (clip(in[kLepEta], -6.0f, 6.0f) - clip(in[kHadEta], -6.0f, 6.0f)));
    p.mass = larger(2.0f * root(p.pt_l * p.pt_h) * root(sinh * sinh + sin * sin), spread(k.smallest));
    const V jets = clip(in[kJetPt], 0.0f, k.largest);
    p.sigma = root(k.met_jets * k.met_jets * jets + k.met_constant * k.met_constant);
    return p;
}

SAGE_INLINE void collinear_solution(const DitauConstants& k, const Pair& p, V* out) {
    const float small = k.almost_parallel * k.almost_parallel;
    const V along = p.met_b * p.cos / (p.cos * p.cos + small), across = p.met_d * p.sin / (p.sin * p.sin + small);
    const V a_l = (along + across) / (2.0f * p.pt_l), a_h = (along - across) / (2.0f * p.pt_h);
    out[0] = (1.0f + 2.0f * larger(-a_l, V{})) / (1.0f + magnitude(a_l));
    out[1] = (1.0f + 2.0f * larger(-a_h, V{})) / (1.0f + magnitude(a_h));
    out[2] = smaller(p.mass / root(out[0] * out[1]), spread(k.largest_collinear));
}

// exp within 3e-7 from -87 to 88; below that what it is at -87.
SAGE_INLINE V quick_exponential(V x) {
    x = larger(x, spread(-87.0f));
    const V shifted = x * 1.44269504f + 12582912.0f;
    const V r = (shifted - 12582912.0f) * -0.693147182f + x;
    V p = r * 8.31252505e-3f + 4.18901134e-2f;
    p = p * r + 1.66671145e-1f;
    p = p * r + 4.99992318e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (V)((I)p + ((I)shifted << 23));
}

// A momentum ratio E with 1/E, both computed without cancellation.
struct Ratio {
    V e, inverse;
};
// r, or 1/r where `turned` is negative.
SAGE_INLINE Ratio turn(V turned, Ratio r) {
    const I back = turned < V{};
    return {back ? r.inverse : r.e, back ? r.e : r.inverse};
}
// E - 1/E = 2 h.
SAGE_INLINE Ratio solve_across(V h) {
    const V big = magnitude(h) + root(h * h + 1.0f);
    return turn(h, {big, 1.0f / big});
}
// E + 1/E = 2 c with E >= 1.
SAGE_INLINE V solve_along(V c) {
    c = larger(c, spread(1.0f));
    return c + root(c * c - 1.0f);
}

// One event's residuals of MET for a mass, in units of sigma * sqrt(2), and what E is possible.
struct Residuals {
    V m_b, m_d, g_b, g_d, to_b, to_d;
    Ratio least, largest;

    SAGE_INLINE Residuals at(float mass) const {
        const float per_mass = 1.0f / mass;
        return {m_b, m_d, g_b * mass, g_d * mass, to_b * per_mass, to_d * per_mass,
                {least.e * per_mass, least.inverse * mass}, {largest.e * mass, largest.inverse * per_mass}};
    }
    // start - the sum of squares
    SAGE_INLINE V below(V start, V e, V inverse) const {
        const V b = m_b - g_b * (e + inverse), d = m_d - g_d * (e - inverse);
        return (start - b * b) - d * d;
    }
    SAGE_INLINE V misfit(Ratio r) const {
        return -below(V{}, smaller(larger(r.e, least.e), largest.e),
                      larger(smaller(r.inverse, least.inverse), largest.inverse));
    }
};

// Where the integrand is taken: around `middle` in E, `half` to each side in log(E), and its misfit nearly at its best.
struct Window {
    V middle, inverse, half, q;
};

SAGE_INLINE Window find_window(const DitauConstants& k, const Residuals& f) {
    const V e = solve_along(f.m_b * f.to_b), one = spread(1.0f);
    V q = f.misfit(solve_across(f.m_d * f.to_d));
    q = smaller(q, f.misfit(turn(f.m_d, {e, 1.0f / e})));
    q = smaller(q, f.misfit({one, one}));
    const V width = root(q + 0.5f * k.window * k.window), widest = solve_along((f.m_b + width) * f.to_b);
    const V low = larger(larger(f.least.e, 1.0f / widest), solve_across((f.m_d - width) * f.to_d).e);
    const V high = smaller(smaller(larger(f.largest.e, f.least.e), widest), solve_across((f.m_d + width) * f.to_d).e);
    const V middle = root(low * high);
    return {middle, 1.0f / middle, 0.5f * logarithm(larger(high / low, one)), q};
}

// The integral over log(E) of the lepton's spectrum times exp(q - misfit).
SAGE_INLINE V integrate(const DitauConstants& k, const Residuals& f, const Window& w) {
    const V cut = spread(60.0f), x_middle = f.least.e * w.inverse;
    V total = V{};
    SAGE_UNROLL
    for (int i = 0; i < kPairs; ++i) {
        const V up = quick_exponential(w.half * k.node[i]), down = 1.0f / up;
        const V exponent_up = f.below(w.q, w.middle * up, w.inverse * down);
        const V exponent_down = f.below(w.q, w.middle * down, w.inverse * up);
        const V x_up = x_middle * down, x_down = x_middle * up;
        const V f_up = x_up * x_up * (x_up * 1.33333333f - 3.0f) + 1.66666667f;
        const V f_down = x_down * x_down * (x_down * 1.33333333f - 3.0f) + 1.66666667f;
        V sum = f_up * quick_exponential(smaller(exponent_up, cut));
        sum = f_down * quick_exponential(smaller(exponent_down, cut)) + sum;
        total = k.weight[i] * sum + total;
    }
    return total * w.half;
}

SAGE_INLINE void mass_likelihood(const DitauConstants& k, const Pair& p, V* out) {
    const V unit = 0.707106781f / p.sigma, g = root(p.pt_l * p.pt_h) / p.mass, per_g = 1.0f / g;
    Residuals f;
    f.m_b = (p.met_b + (p.pt_l + p.pt_h) * p.cos) * unit;
    f.m_d = (p.met_d + (p.pt_l - p.pt_h) * p.sin) * unit;
    f.g_b = g * p.cos * unit;
    f.g_d = g * p.sin * unit;
    f.to_b = 0.5f / (g * larger(p.cos, spread(k.widest)) * unit);
    f.to_d = 0.5f / (g * larger(p.sin, spread(k.widest)) * unit);
    f.least = {p.pt_l * per_g, g / p.pt_l};
    f.largest = {g / p.pt_h, p.pt_h * per_g};
    const V front = p.mass * p.mass * 0.318309886f / (p.sigma * p.sigma);

    // Apart, because the first is a long chain of operations of which the processor can follow several at once.
    Window window[kMasses];
    for (int i = 0; i < kMasses; ++i) window[i] = find_window(k, f.at(k.mass[i]));
    V value[kMasses], norm = V{}, first = V{};
    for (int i = 0; i < kMasses; ++i) {
        const float per_mass = 1.0f / k.mass[i];
        value[i] = integrate(k, f.at(k.mass[i]), window[i]) * quick_exponential(-window[i].q);
        value[i] = value[i] * (front * (per_mass * per_mass * per_mass)) + k.floor;
        norm = k.mass_weight[i] * value[i] + norm;
        first = k.mass_weight[i] * k.mass[i] * value[i] + first;
    }
    const V at_h = value[static_cast<int>(k.at_h)];
    out[0] = logarithm(at_h / value[static_cast<int>(k.at_z)]);
    out[1] = logarithm(at_h);
    out[2] = first / norm;
}

// |MET| - MET along (cos, sin), without cancellation.
SAGE_INLINE V apart(const Pair& p, V sin) {
    const V along = p.met_b * p.cos + p.met_d * sin, across = p.met_b * sin - p.met_d * p.cos;
    return along > V{} ? across * across / (p.met + along) : p.met - along;
}

SAGE_INLINE void transverse(const Pair& p, V* out) {
    const V had2 = 2.0f * p.pt_h * apart(p, -p.sin), lep2 = 2.0f * p.pt_l * apart(p, p.sin);
    out[0] = root(had2);
    out[1] = root(had2 + lep2 + 4.0f * p.pt_l * p.pt_h * p.sin * p.sin);
    out[2] = p.met_b;
    out[3] = (p.pt_l + p.pt_h) * p.cos;
}

// All ten of one vector of events. NaN goes through comparisons as either side; as in numpy it spoils what it is part of,
// here the whole event.
__attribute__((noinline)) void ditau_quantities(const DitauConstants& k, const V* in, V* out) {
    const Pair pair = find_pair(k, in);
    collinear_solution(k, pair, out);
    mass_likelihood(k, pair, out + 3);
    transverse(pair, out + 6);
    V poison = V{};
    for (int c = 0; c < kDitauColumns; ++c) poison = in[c] != in[c] ? in[c] : poison;
    for (int c = 0; c < kDitau; ++c) out[c] += poison;
}

void run_ditau(const DitauConstants& k, const DitauBatch& batch) {
    for (int64_t start = 0; start < batch.n_events; start += kLanes) {
        const int64_t left = batch.n_events - start;
        const int full = left < kLanes ? static_cast<int>(left) : kLanes;
        V in[kDitauColumns], out[kDitau];
        float lanes[kLanes];
        for (int c = 0; c < kDitauColumns; ++c) {
            for (int i = 0; i < kLanes; ++i) lanes[i] = batch.column[c][start + (i < full ? i : full - 1)];
            memcpy(in + c, lanes, sizeof lanes);
        }
        ditau_quantities(k, in, out);
        for (int c = 0; c < kDitau; ++c) {
            memcpy(lanes, out + c, sizeof lanes);
            memcpy(batch.out + c * batch.stride + start, lanes, static_cast<size_t>(full) * sizeof(float));
        }
    }
}

#endif
