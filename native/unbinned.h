// Sums over events of an unbinned likelihood with its derivatives; sage/unbinned/statistic.py is the numpy twin and says
// what they mean. Included by network.cpp: once above the kernels, once per vector width, once with the C interface.
//
// Coefficients are float32 and arithmetic is double: the minimiser compares values that differ by 1e-12. Events lie in
// blocks, all numbers of one kind next to each other within a block; what fills up the last block has no weight.

#if !defined(SAGE_LANES) && !defined(SAGE_EXPORT)

namespace {

constexpr int kEventBlock = 64;
constexpr int kMostProcesses = 8, kMostShapes = 8, kMostTerms = 32;
constexpr double kLargestExponent = 20.0;
constexpr double kSmallestRate = 1e-300;

struct EventBatch {
    const float* events;  // (blocks, 1 + P + P C, kEventBlock): weights, shares, coefficients of the exponents
    int64_t n_blocks;
    int n_processes, n_shapes, n_terms;
    const double* factors;      // (P,), densities relative to those of the shares
    const double* terms;        // (C,)
    const double* derivatives;  // (K, C), of the terms by the shape parameters
    double* out;
};

// Of the results: value and weight beyond the range of the exponents, then arrays in the order of EventSums.
constexpr int kValueSums = 2;
constexpr int event_sums(int p, int k, int c) {
    return kValueSums + p + p * c + p * (p + 1) / 2 + p * k + k * (k + 1) / 2 * 2;
}

}  // namespace

#elif defined(SAGE_LANES)

// Twice as wide as the registers, where these hold 2 or 4 numbers: what is the same for all events is then loaded half as
// often. With AVX-512 the sums of so many events would not fit the registers.
constexpr int kDoubles = SAGE_LANES < 8 ? SAGE_LANES : 8;
typedef double W __attribute__((vector_size(8 * kDoubles)));
typedef uint64_t WBits __attribute__((vector_size(8 * kDoubles)));
typedef float F __attribute__((vector_size(4 * kDoubles)));

SAGE_INLINE W spread_double(double x) { return x - W{}; }
SAGE_INLINE W load_double(const float* from) {
    F values;
    memcpy(&values, from, sizeof values);
    return __builtin_convertvector(values, W);
}
SAGE_INLINE double total(W x) {
    double lanes[kDoubles], sum = 0.0;
    memcpy(lanes, &x, sizeof lanes);
    for (int i = 0; i < kDoubles; ++i) sum += lanes[i];
    return sum;
}

// exp of numbers within kLargestExponent, to about 1 ulp.
SAGE_INLINE W exp_double(W x) {
    // Adding 1.5 * 2^52 rounds to an integer, which is then in the low bits.
    const W shifted = x * 1.4426950408889634 + 6755399441055744.0;
    const W n = shifted - 6755399441055744.0;
    W r = n * -0.693145751953125 + x;
    r = n * -1.42860682030941723212e-6 + r;
    W p = r * (1.0 / 479001600.0) + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = (p * r) * r + r + 1.0;
    return p * (W)(((WBits)shifted + 1023u) << 52);
}

// log of positive normal numbers, to about 1 ulp.
SAGE_INLINE W log_double(W x) {
    const WBits bits = (WBits)x;
    W m = (W)((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
    W e = (W)((bits >> 52) + 0x4338000000000000u) - (6755399441055744.0 + 1023.0);
    e = m > 1.4142135623730951 ? e + 1.0 : e;
    m = m > 1.4142135623730951 ? 0.5 * m : m;
    const W f = m - 1.0, s = f / (m + 1.0), z = s * s;
    W p = z * (2.0 / 21.0) + 2.0 / 19.0;
    p = p * z + 2.0 / 17.0;
    p = p * z + 2.0 / 15.0;
    p = p * z + 2.0 / 13.0;
    p = p * z + 2.0 / 11.0;
    p = p * z + 2.0 / 9.0;
    p = p * z + 2.0 / 7.0;
    p = p * z + 2.0 / 5.0;
    p = p * z + 2.0 / 3.0;
    // log(1 + f) = f - f^2/2 + s (f^2/2 + z p), which keeps what is small.
    const W half = 0.5 * f * f;
    const W log_m = f - (half - s * (half + z * p));
    return e * 0.693147180559945286 + (e * 2.319046813846299e-17 + log_m);
}

// With numbers of processes, shape parameters and terms known at compile time, or 0 for those of the batch.
template <int Processes, int Shapes, int Terms, bool Derivatives>
void run_events(const EventBatch& batch) {
    const int n_p = Processes ? Processes : batch.n_processes, n_k = Shapes ? Shapes : batch.n_shapes;
    const int n_c = Terms ? Terms : batch.n_terms;
    constexpr int kP = Processes ? Processes : kMostProcesses, kK = Shapes ? Shapes : kMostShapes;
    constexpr int kC = Terms ? Terms : kMostTerms;
    const int n_rows = 1 + n_p + n_p * n_c, n_out = Derivatives ? event_sums(n_p, n_k, n_c) : kValueSums;
    W sums[Derivatives ? event_sums(kP, kK, kC) : kValueSums] = {};
    for (int64_t block = 0; block < batch.n_blocks; ++block) {
        const float* const rows = batch.events + block * n_rows * kEventBlock;
        for (int i = 0; i < kEventBlock; i += kDoubles) {
            // Rows are too far apart for the hardware to see where the next block begins.
            for (int row = 0; row < n_rows && block + 1 < batch.n_blocks; ++row) {
                __builtin_prefetch(rows + (n_rows + row) * kEventBlock + i);
            }
            const W weight = load_double(rows + i);
            W part[kP], slope[kP][kK], open[kP], rate = W{}, outside = W{};
            for (int p = 0; p < n_p; ++p) {
                const float* const own = rows + (1 + n_p + p * n_c) * kEventBlock + i;
                W exponent = W{};
                for (int k = 0; k < n_k; ++k) slope[p][k] = W{};
                for (int c = 0; c < n_c; ++c) {
                    const W a = load_double(own + c * kEventBlock);
                    exponent = batch.terms[c] * a + exponent;
                    if (Derivatives) {
                        for (int k = 0; k < n_k; ++k) slope[p][k] = batch.derivatives[k * n_c + c] * a + slope[p][k];
                    }
                }
                // Beyond the range nothing changes with the parameters any more.
                const W one = spread_double(1.0);
                open[p] = exponent > kLargestExponent ? W{} : exponent < -kLargestExponent ? W{} : one;
                outside = open[p] > 0.0 ? outside : one;
                exponent = exponent > kLargestExponent ? spread_double(kLargestExponent) : exponent;
                exponent = exponent < -kLargestExponent ? spread_double(-kLargestExponent) : exponent;
                part[p] = load_double(rows + (1 + p) * kEventBlock + i) * exp_double(exponent);
                rate = batch.factors[p] * part[p] + rate;
            }
            // Less than no density has no logarithm; what fills up a block may have none either.
            const W logarithm = rate > kSmallestRate ? log_double(rate) : spread_double(-__builtin_inf());
            sums[0] += weight > 0.0 ? weight * logarithm : W{};
            sums[1] += weight * outside;
            if (!Derivatives) continue;

            W changes[kK];
            for (int k = 0; k < n_k; ++k) changes[k] = W{};
            for (int p = 0; p < n_p; ++p) {
                part[p] /= rate;
                for (int k = 0; k < n_k; ++k) {
                    slope[p][k] *= open[p];
                    changes[k] = (batch.factors[p] * part[p]) * slope[p][k] + changes[k];
                }
            }
            W* to = sums + kValueSums;
            for (int p = 0; p < n_p; ++p) *to++ += weight * part[p];
            for (int p = 0; p < n_p; ++p) {
                const float* const own = rows + (1 + n_p + p * n_c) * kEventBlock + i;
                const W moving = weight * part[p] * open[p];
                for (int c = 0; c < n_c; ++c) to[c] = moving * load_double(own + c * kEventBlock) + to[c];
                to += n_c;
            }
            for (int p = 0; p < n_p; ++p) {
                const W weighted = weight * part[p];
                for (int q = p; q < n_p; ++q, ++to) *to = weighted * part[q] + *to;
            }
            for (int p = 0; p < n_p; ++p) {
                const W weighted = weight * part[p];
                for (int k = 0; k < n_k; ++k, ++to) *to = weighted * changes[k] + *to;
            }
            for (int k = 0; k < n_k; ++k) {
                const W weighted = weight * changes[k];
                for (int l = k; l < n_k; ++l, ++to) *to = weighted * changes[l] + *to;
            }
            for (int k = 0; k < n_k; ++k) {
                for (int l = k; l < n_k; ++l, ++to) {
                    W second = W{};
                    for (int p = 0; p < n_p; ++p) {
                        second = (batch.factors[p] * part[p]) * slope[p][k] * slope[p][l] + second;
                    }
                    *to = weight * second + *to;
                }
            }
        }
    }
    for (int i = 0; i < n_out; ++i) batch.out[i] = total(sums[i]);
}

void run_unbinned(const EventBatch& batch, bool derivatives) {
    const bool usual = batch.n_processes == 4 && batch.n_terms == 9;
    if (!derivatives) {
        usual ? run_events<4, 3, 9, false>(batch) : run_events<0, 0, 0, false>(batch);
    } else {
        usual && batch.n_shapes == 3 ? run_events<4, 3, 9, true>(batch) : run_events<0, 0, 0, true>(batch);
    }
}

#else

// Version of this part of the interface and of the meaning of the sums.
SAGE_EXPORT int32_t sage_unbinned_version() { return 1; }

// The sums of EventBatch; without `derivatives` only the first kValueSums. Returns 0, or which argument is wrong; nothing
// is written then.
SAGE_EXPORT int32_t sage_unbinned(const float* events, int64_t n_blocks, int64_t n_processes, int64_t n_shapes,
                                  int64_t n_terms, const double* factors, const double* terms, const double* slopes,
                                  int32_t derivatives, double* out, int64_t n_out, int32_t instruction_set) {
    const bool in_range = n_processes >= 1 && n_processes <= kMostProcesses && n_shapes >= 0 &&
                          n_shapes <= kMostShapes && n_terms >= 0 && n_terms <= kMostTerms;
    if (!in_range) return kWrongParameterCount;
    const int p = static_cast<int>(n_processes), k = static_cast<int>(n_shapes), c = static_cast<int>(n_terms);
    if (n_out != (derivatives ? event_sums(p, k, c) : kValueSums)) return kWrongParameterCount;
    if (n_blocks < 0 || (n_blocks > 0 && !events) || !factors || !terms || !slopes || !out) return kBadArgument;
    const int best = best_instruction_set();
    if (instruction_set < kAutomatic || instruction_set > best) return kUnknownInstructionSet;
    const EventBatch batch = {events, n_blocks, p, k, c, factors, terms, slopes, out};
    switch (instruction_set == kAutomatic ? best : instruction_set) {
#if defined(__x86_64__)
        case kAvx512:
            avx512::run_unbinned(batch, derivatives != 0);
            break;
        case kAvx2:
            avx2::run_unbinned(batch, derivatives != 0);
            break;
#endif
        default:
            baseline::run_unbinned(batch, derivatives != 0);
    }
    return kOk;
}

#endif
