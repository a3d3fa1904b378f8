// The dual-branch network of sage/network/dense.py as a CPU kernel: normalised inputs -> class probabilities.
//
// Events are sorted by which jets exist, so that every event of a batch has the same graph of 3, 4 or 5 nodes, and a
// batch holds one event per lane of a vector register ("structure of arrays"): each number of the dense module is one
// register here, each event's arithmetic is the same in every lane, and results depend neither on the order of the rows
// nor on how they are cut into calls. Batches that are not full are padded with their last event.
//
// What the algebra of sage/network/dense.py leaves is folded once per call, in double precision (`fold`):
//   - an expanded node is affine in its two or three inputs, so the first round's W_x needs no matrix product, and the
//     scores and gates of the attention are affine in the inputs as well;
//   - the factor 1 - a of the residual mixing goes into the message's weights (a ReLU lets a positive factor through);
//   - the deterministic branch's MET node receives nothing: it is the same for all events.
// What remains are products of the hidden width squared with nodes and, per edge, as many multiply-adds with a ReLU as the
// width (deterministic branch). The hidden width is a template parameter, the number of rounds one of the call.
//
// The file reads itself once per instruction set: the part below `#else` is the kernel for one vector width, the part
// above is what all widths share. No state, no allocation, no exceptions; libc and libm only. The layout of the event
// graph and of the parameters repeats sage/network/graph.py and parameters.py; the comparison with the dense module in
// tests/test_native.py is what keeps them the same. ditau.h holds the di-tau quantities, perceptron.h what runs beside
// the graph, unbinned.h the sums of unbinned likelihoods.

#ifndef SAGE_LANES

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define SAGE_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define SAGE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SAGE_UNROLL _Pragma("GCC unroll 16")
#endif

namespace {

// Hidden widths with a kernel of their own, and the most rounds of message passing of either branch.
#define SAGE_FOR_EACH_HIDDEN(DO) DO(16) DO(32) DO(48) DO(64)
constexpr int kMostRounds = 4;

constexpr int kClasses = 4;
constexpr int kNodes = 5;
constexpr int kSlots = 3;
constexpr int kNarrow = 8;
constexpr float kLeak = 0.01f;

// Events whose rows are sorted by pattern together: small enough that the rows are still cached when they are read.
constexpr int kChunk = 1024;

enum Node { kLep, kHad, kJet1, kJet2, kMet };

struct NodeInput {
    int column, node, slot;
};
struct Edge {
    int first, second;
};

// Deterministic branch: inputs 0..15.
constexpr NodeInput kDetInputs[] = {{0, kLep, 0},  {1, kLep, 1},  {2, kLep, 2},  {3, kHad, 1}, {4, kHad, 2},
                                    {5, kJet1, 1}, {6, kJet1, 2}, {7, kJet2, 1}, {8, kJet2, 2}};
constexpr Edge kDetEdges[] = {{kHad, kJet1}, {kHad, kJet2}, {kLep, kJet1}, {kLep, kJet2}, {kJet1, kJet2}, {kHad, kLep}};
constexpr int kDetNEdges = 6;
constexpr int kDetEdgeColumn = 9;
constexpr int kDetGlobalColumn = 15;

// Uncertainty-aware branch: inputs from 16 on. How many globals end it depends on the choice of inputs.
constexpr NodeInput kUncInputs[] = {{16, kHad, 0}, {17, kJet1, 0}, {18, kJet2, 0}, {19, kMet, 0}, {20, kMet, 2}};
constexpr Edge kUncEdges[] = {{kHad, kMet},  {kLep, kMet},    {kLep, kMet}, {kJet1, kMet},
                              {kJet2, kMet}, {kJet1, kJet2}, {kLep, kHad}, {kHad, kLep}};
constexpr int kUncNEdges = 8;
constexpr int kUncEdgeColumn = 21;
constexpr int kUncGlobalColumn = 29;
constexpr int kPublishedGlobals = 6, kDitauGlobals = 16;
constexpr int inputs(int globals) { return kUncGlobalColumn + globals; }

// The flat parameter block, in the order of sage/network/parameters.py; weights are (outputs, inputs) as in torch.
template <int Out, int In>
struct LinearParameters {
    float weight[Out][In];
    float bias[Out];
};

// With room for the most rounds; the block has those that there are.
template <int kHidden>
struct Parameters {
    int rounds;
    float det_mixing[kMostRounds];
    LinearParameters<kHidden, kSlots + kNodes> det_node;
    LinearParameters<kHidden, 1> det_edge;
    LinearParameters<kHidden, 1> det_global;
    LinearParameters<kHidden, 2 * kHidden> det_message[kMostRounds];
    LinearParameters<kHidden, 2 * kHidden> det_readout;
    float unc_mixing[kMostRounds];
    LinearParameters<kHidden, kSlots + kNodes> unc_node;
    LinearParameters<kHidden, 1> unc_edge;
    // Here comes the expander of the globals, which is apart because its size depends on the choice of inputs.
    float node_score[kHidden];
    float edge_score[2 * kHidden];
    LinearParameters<1, kHidden> node_gate;
    LinearParameters<1, 2 * kHidden> edge_gate;
    LinearParameters<kHidden, 3 * kHidden> unc_message[kMostRounds];
    LinearParameters<kHidden, 2 * kHidden> unc_readout;
    LinearParameters<kHidden, kHidden> gate_hidden;
    LinearParameters<kHidden, kHidden> gate;
    LinearParameters<kHidden, 2 * kHidden> head_hidden;
    LinearParameters<kNarrow, kHidden> head_narrow;
    LinearParameters<kNarrow, 2 * kHidden> head_residual;
    LinearParameters<kClasses, kNarrow> classes;
};

// Copied rather than cast: the caller's block is an array of floats and need not be aligned for the struct.
struct Reader {
    const float* at;

    template <typename T>
    void operator()(T& to, size_t size = sizeof(T)) {
        memcpy(&to, at, size);
        at += size / sizeof(float);
    }
};

template <int kHidden, int Globals>
void read(const float* block, int rounds, Parameters<kHidden>& p, LinearParameters<kHidden, Globals>& expander) {
    Reader next = {block};
    p.rounds = rounds;
    next(p.det_mixing, rounds * sizeof p.det_mixing[0]);
    next(p.det_node);
    next(p.det_edge);
    next(p.det_global);
    next(p.det_message, rounds * sizeof p.det_message[0]);
    next(p.det_readout);
    next(p.unc_mixing, rounds * sizeof p.unc_mixing[0]);
    next(p.unc_node);
    next(p.unc_edge);
    next(expander);
    next(p.node_score);
    next(p.edge_score);
    next(p.node_gate);
    next(p.edge_gate);
    next(p.unc_message, rounds * sizeof p.unc_message[0]);
    next(p.unc_readout);
    next(p.gate_hidden);
    next(p.gate);
    next(p.head_hidden);
    next(p.head_narrow);
    next(p.head_residual);
    next(p.classes);
}

constexpr int64_t linear(int64_t outputs, int64_t inputs) { return outputs * (inputs + 1); }

// Floats in the block.
constexpr int64_t parameters(int hidden, int rounds, int globals) {
    const int64_t h = hidden, expanders = linear(h, kSlots + kNodes) + linear(h, 1);
    const int64_t deterministic = 2 * expanders + linear(h, 1) + rounds * (1 + linear(h, 2 * h)) + linear(h, 2 * h);
    const int64_t attention = h + 2 * h + linear(1, h) + linear(1, 2 * h);
    const int64_t uncertainty = linear(h, globals) + attention + rounds * (1 + linear(h, 3 * h)) + linear(h, 2 * h);
    const int64_t gate = 2 * linear(h, h), narrow = linear(kNarrow, h) + linear(kNarrow, 2 * h);
    return deterministic + uncertainty + gate + linear(h, 2 * h) + narrow + linear(kClasses, kNarrow);
}
static_assert(parameters(32, 3, kPublishedGlobals) == 25916, "the block differs from sage/network/parameters.py");

// A matrix product as the kernel reads it: transposed, so that the weights of neighbouring outputs are neighbours.
template <int Out, int In>
struct Product {
    alignas(64) float weight[In][Out];
    alignas(64) float bias[Out];
};

// An affine function of a node's slots with values in Out numbers; one constant per kind of node.
template <int Out>
struct NodeAffine {
    alignas(64) float constant[kNodes][Out];
    alignas(64) float slope[kSlots][Out];
};

template <int kHidden>
struct Folded {
    int rounds;
    float det_keep[kMostRounds];  // a of the residual mixing
    NodeAffine<kHidden> det_node, det_first;
    Product<kHidden, kHidden> det_round[kMostRounds];  // [0] is folded into det_first
    alignas(64) float det_edge_slope[kMostRounds][kHidden];
    Product<kHidden, kHidden> det_readout;
    alignas(64) float det_global_slope[kHidden];
    alignas(64) float det_met[kHidden];  // readout of the MET node before the global vector joins

    float unc_keep[kMostRounds];
    NodeAffine<kHidden> unc_node, unc_first;
    NodeAffine<1> node_score, node_gate, edge_score, edge_gate;
    float edge_score_slope, edge_gate_slope;
    Product<kHidden, kHidden> unc_round[kMostRounds];  // [0] is folded into unc_first
    Product<kHidden, kHidden> unc_from_global[kMostRounds];
    alignas(64) float unc_edge_slope[kMostRounds][kHidden];
    alignas(64) float unc_edge_offset[kMostRounds][kHidden];
    Product<kHidden, kHidden> unc_readout;

    Product<kHidden, kHidden> gate_hidden, gate;
    Product<kHidden, 2 * kHidden> head_hidden;
    Product<kNarrow, kHidden> head_narrow;
    Product<kNarrow, 2 * kHidden> head_residual;
    Product<kClasses, kNarrow> classes;
};

// The same with what the uncertainty-aware branch makes of its globals.
template <int kHidden, int Globals>
struct FoldedFor : Folded<kHidden> {
    Product<kHidden, Globals> unc_global, unc_readout_global;
};

// ---------------------------------------------------------------------------------------------------------- folding

template <int kHidden>
using Column = double[kHidden];

// out = scale * weight[:, first:first + hidden] @ in
template <int kHidden, int Out, int In>
void multiply(const float (&weight)[Out][In], int first, double scale, const double (&in)[kHidden], double* out) {
    for (int o = 0; o < Out; ++o) {
        double sum = 0.0;
        for (int k = 0; k < kHidden; ++k) sum += static_cast<double>(weight[o][first + k]) * in[k];
        out[o] = scale * sum;
    }
}

template <int Out, int In, int Used>
void transpose(const float (&weight)[Out][In], int first, double scale, Product<Out, Used>& product) {
    for (int k = 0; k < Used; ++k)
        for (int o = 0; o < Out; ++o) product.weight[k][o] = static_cast<float>(scale * weight[o][first + k]);
}

template <int Out, int In>
void take(const LinearParameters<Out, In>& linear, Product<Out, In>& product) {
    transpose(linear.weight, 0, 1.0, product);
    memcpy(product.bias, linear.bias, sizeof linear.bias);
}

// The expanded node seen through weight[:, first:first + hidden]; offset is added to the constant.
template <int kHidden, int Out, int In>
void fold_node(const LinearParameters<kHidden, kSlots + kNodes>& expander, const float (&weight)[Out][In], int first,
               double scale, const double* offset, NodeAffine<Out>& affine) {
    double seen[Out];
    for (int column = 0; column < kSlots + kNodes; ++column) {
        Column<kHidden> expanded;
        const bool slot = column < kSlots;
        for (int f = 0; f < kHidden; ++f) {
            expanded[f] = expander.weight[f][column];
            if (!slot) expanded[f] += expander.bias[f];
        }
        multiply(weight, first, scale, expanded, seen);
        for (int o = 0; o < Out; ++o) {
            if (slot) {
                affine.slope[column][o] = static_cast<float>(seen[o]);
            } else {
                affine.constant[column - kSlots][o] = static_cast<float>(seen[o] + (offset ? offset[o] : 0.0));
            }
        }
    }
}

template <int kHidden>
void copy_node(const LinearParameters<kHidden, kSlots + kNodes>& expander, NodeAffine<kHidden>& affine) {
    for (int f = 0; f < kHidden; ++f) {
        for (int slot = 0; slot < kSlots; ++slot) affine.slope[slot][f] = expander.weight[f][slot];
        for (int node = 0; node < kNodes; ++node)
            affine.constant[node][f] = expander.weight[f][kSlots + node] + expander.bias[f];
    }
}

template <int Out>
void widen(const float (&in)[Out][1], double* out) {
    for (int o = 0; o < Out; ++o) out[o] = in[o][0];
}
template <int Out>
void widen(const float (&in)[Out], double* out) {
    for (int o = 0; o < Out; ++o) out[o] = in[o];
}
template <int Out>
void narrow(const double* in, float (&out)[Out]) {
    for (int o = 0; o < Out; ++o) out[o] = static_cast<float>(in[o]);
}

double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

template <int kHidden>
void fold_deterministic(const Parameters<kHidden>& p, Folded<kHidden>& f) {
    Column<kHidden> slope, offset, seen, met;
    widen(p.det_edge.weight, slope);
    widen(p.det_edge.bias, offset);
    copy_node(p.det_node, f.det_node);
    widen(f.det_node.constant[kMet], met);
    for (int round = 0; round < p.rounds; ++round) {
        const auto& message = p.det_message[round];
        const double keep = sigmoid(p.det_mixing[round]), pass = 1.0 - keep;
        f.det_keep[round] = static_cast<float>(keep);
        multiply(message.weight, kHidden, pass, slope, seen);
        narrow(seen, f.det_edge_slope[round]);
        multiply(message.weight, kHidden, pass, offset, seen);
        for (int o = 0; o < kHidden; ++o) seen[o] += pass * message.bias[o];
        narrow(seen, f.det_round[round].bias);
        transpose(message.weight, 0, pass, f.det_round[round]);
        if (round == 0) fold_node(p.det_node, message.weight, 0, pass, seen, f.det_first);
        for (double& value : met) value = value > 0.0 ? keep * value : 0.0;
    }
    const auto& readout = p.det_readout;
    transpose(readout.weight, 0, 1.0, f.det_readout);
    multiply(readout.weight, 0, 1.0, met, seen);
    narrow(seen, f.det_met);
    Column<kHidden> global;
    widen(p.det_global.weight, global);
    multiply(readout.weight, kHidden, 1.0, global, seen);
    narrow(seen, f.det_global_slope);
    widen(p.det_global.bias, global);
    multiply(readout.weight, kHidden, 1.0, global, seen);
    for (int o = 0; o < kHidden; ++o) seen[o] += readout.bias[o];
    narrow(seen, f.det_readout.bias);
}

template <int kHidden>
void fold_attention(const Parameters<kHidden>& p, Folded<kHidden>& f) {
    Column<kHidden> slope, offset;
    widen(p.unc_edge.weight, slope);
    widen(p.unc_edge.bias, offset);
    float weight[1][2 * kHidden];
    double bias, seen;

    memcpy(weight[0], p.node_score, sizeof p.node_score);
    fold_node(p.unc_node, weight, 0, 1.0, nullptr, f.node_score);
    bias = p.node_gate.bias[0];
    fold_node(p.unc_node, p.node_gate.weight, 0, 1.0, &bias, f.node_gate);

    memcpy(weight[0], p.edge_score, sizeof p.edge_score);
    multiply(weight, kHidden, 1.0, slope, &seen);
    f.edge_score_slope = static_cast<float>(seen);
    multiply(weight, kHidden, 1.0, offset, &bias);
    fold_node(p.unc_node, weight, 0, 1.0, &bias, f.edge_score);
    multiply(p.edge_gate.weight, kHidden, 1.0, slope, &seen);
    f.edge_gate_slope = static_cast<float>(seen);
    multiply(p.edge_gate.weight, kHidden, 1.0, offset, &bias);
    bias += p.edge_gate.bias[0];
    fold_node(p.unc_node, p.edge_gate.weight, 0, 1.0, &bias, f.edge_gate);
}

template <int kHidden>
void fold_uncertainty(const Parameters<kHidden>& p, Folded<kHidden>& f) {
    Column<kHidden> slope, offset, seen;
    widen(p.unc_edge.weight, slope);
    widen(p.unc_edge.bias, offset);
    copy_node(p.unc_node, f.unc_node);
    fold_attention(p, f);
    for (int round = 0; round < p.rounds; ++round) {
        const auto& message = p.unc_message[round];
        const double keep = sigmoid(p.unc_mixing[round]), pass = 1.0 - keep;
        f.unc_keep[round] = static_cast<float>(keep);
        multiply(message.weight, kHidden, pass, slope, seen);
        narrow(seen, f.unc_edge_slope[round]);
        multiply(message.weight, kHidden, pass, offset, seen);
        narrow(seen, f.unc_edge_offset[round]);
        transpose(message.weight, 0, pass, f.unc_round[round]);
        memset(f.unc_round[round].bias, 0, sizeof f.unc_round[round].bias);
        if (round == 0) fold_node(p.unc_node, message.weight, 0, pass, nullptr, f.unc_first);
        transpose(message.weight, 2 * kHidden, pass, f.unc_from_global[round]);
        for (int o = 0; o < kHidden; ++o)
            f.unc_from_global[round].bias[o] = static_cast<float>(pass * message.bias[o]);
    }
    const auto& readout = p.unc_readout;
    transpose(readout.weight, 0, 1.0, f.unc_readout);
    memset(f.unc_readout.bias, 0, sizeof f.unc_readout.bias);
}

template <int kHidden, int Globals>
void fold_globals(const Parameters<kHidden>& p, const LinearParameters<kHidden, Globals>& expander,
                  FoldedFor<kHidden, Globals>& f) {
    const auto& readout = p.unc_readout;
    take(expander, f.unc_global);
    Column<kHidden> global, seen;
    for (int k = 0; k < Globals; ++k) {
        for (int o = 0; o < kHidden; ++o) global[o] = expander.weight[o][k];
        multiply(readout.weight, kHidden, 1.0, global, seen);
        narrow(seen, f.unc_readout_global.weight[k]);
    }
    widen(expander.bias, global);
    multiply(readout.weight, kHidden, 1.0, global, seen);
    for (int o = 0; o < kHidden; ++o) seen[o] += readout.bias[o];
    narrow(seen, f.unc_readout_global.bias);
}

template <int kHidden>
void fold(const Parameters<kHidden>& p, Folded<kHidden>& f) {
    f.rounds = p.rounds;
    fold_deterministic(p, f);
    fold_uncertainty(p, f);
    take(p.gate_hidden, f.gate_hidden);
    take(p.gate, f.gate);
    take(p.head_hidden, f.head_hidden);
    take(p.head_narrow, f.head_narrow);
    take(p.head_residual, f.head_residual);
    take(p.classes, f.classes);
}

// Where events come from and where results go; strides in elements.
struct Batch {
    const float* values;
    int64_t row_stride, column_stride;
    const uint8_t* jets;
    int64_t n_events;
    const float* offset;  // added to the logits, (n, 4) with offset_stride from row to row, or null
    int64_t offset_stride;
    float* probabilities;
    float* logits;
};

}  // namespace

#include "ditau.h"
#include "perceptron.h"
#include "inputs.h"
#include "unbinned.h"

// ------------------------------------------------------------------------------------- one kernel per instruction set

#define SAGE_LANES 4
#define SAGE_NAMESPACE baseline
#include "network.cpp"
#undef SAGE_LANES
#undef SAGE_NAMESPACE

#if defined(__x86_64__)

#define SAGE_LANES 8
#define SAGE_NAMESPACE avx2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "network.cpp"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SAGE_LANES
#undef SAGE_NAMESPACE

#define SAGE_LANES 16
#define SAGE_NAMESPACE avx512
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw,prefer-vector-width=512")
#endif
#include "network.cpp"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SAGE_LANES
#undef SAGE_NAMESPACE

#endif

// -------------------------------------------------------------------------------------------------------- C interface

namespace {

enum InstructionSet { kAutomatic = 0, kBaseline = 1, kAvx2 = 2, kAvx512 = 3 };
enum Status { kOk = 0, kWrongParameterCount = 1, kUnknownInstructionSet = 2, kBadArgument = 3 };

// cpuid by hand: what __builtin_cpu_supports needs is not in every compiler's run-time library.
int best_instruction_set() {
#if defined(__x86_64__)
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return kBaseline;
    constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28;
    if ((c & (kFma | kOsxsave | kAvx)) != (kFma | kOsxsave | kAvx)) return kBaseline;
    unsigned state, high;  // which registers the operating system saves
    __asm__ volatile("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
    constexpr unsigned kYmm = 0x06, kZmm = 0xe6;
    if ((state & kYmm) != kYmm || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return kBaseline;
    if (!(b & (1u << 5))) return kBaseline;
    constexpr unsigned kFoundation = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
    const unsigned wide = kFoundation | kDq | kBw | kVl;
    return (state & kZmm) == kZmm && (b & wide) == wide ? kAvx512 : kAvx2;
#else
    return kBaseline;
#endif
}

}  // namespace

#define SAGE_EXPORT extern "C" __attribute__((visibility("default")))

// Version of this interface, of the parameter block and of the meaning of the inputs.
SAGE_EXPORT int32_t sage_network_version() { return 4; }

// Number of floats in the parameter block of such a network; 0 if there is no such network.
SAGE_EXPORT int64_t sage_network_parameters(int64_t n_inputs, int64_t hidden, int64_t rounds) {
    const int globals = n_inputs == inputs(kPublishedGlobals) ? kPublishedGlobals
                        : n_inputs == inputs(kDitauGlobals)   ? kDitauGlobals
                                                              : 0;
    if (globals == 0 || rounds < 1 || rounds > kMostRounds) return 0;
    switch (hidden) {
#define SAGE_CASE(WIDTH) case WIDTH:
        SAGE_FOR_EACH_HIDDEN(SAGE_CASE)
#undef SAGE_CASE
        return parameters(static_cast<int>(hidden), static_cast<int>(rounds), globals);
        default:
            return 0;
    }
}

// The widest instruction set this machine has: 1 baseline, 2 AVX2 with FMA, 3 AVX-512.
SAGE_EXPORT int32_t sage_network_instruction_set() { return best_instruction_set(); }

namespace {

template <int kHidden, int Globals>
void forward(const float* block, int rounds, const Batch& batch, int instruction_set) {
    Parameters<kHidden> raw;
    LinearParameters<kHidden, Globals> expander;
    read(block, rounds, raw, expander);
    FoldedFor<kHidden, Globals> folded;
    fold(raw, folded);
    fold_globals(raw, expander, folded);
    switch (instruction_set) {
#if defined(__x86_64__)
        case kAvx512:
            avx512::run(folded, batch);
            break;
        case kAvx2:
            avx2::run(folded, batch);
            break;
#endif
        default:
            baseline::run(folded, batch);
    }
}

}  // namespace

// Class probabilities, (n, 4) row-major, and logits where the pointer is not null. `values[i * row_stride + c *
// column_stride]` is input c of event i; jets is (n, 2) row-major, nonzero where the leading and the subleading jet
// exist. `offset[i * offset_stride + k]` is added to logit k unless the pointer is null. An event with an input that is not finite gets NaN everywhere, as in the dense module. Returns 0, or which
// argument is wrong; nothing is written then.
SAGE_EXPORT int32_t sage_network_forward(const float* block, int64_t n_parameters, int64_t n_inputs, int64_t hidden,
                                         int64_t rounds, const float* values, int64_t row_stride, int64_t column_stride,
                                         const uint8_t* jets, int64_t n_events, const float* offset,
                                         int64_t offset_stride, float* probabilities, float* logits,
                                         int32_t instruction_set) {
    const int64_t expected = sage_network_parameters(n_inputs, hidden, rounds);
    if (expected == 0 || n_parameters != expected) return kWrongParameterCount;
    if (n_events < 0 || !block || (n_events > 0 && (!values || !jets || !probabilities))) return kBadArgument;
    const int best = best_instruction_set();
    if (instruction_set < kAutomatic || instruction_set > best) return kUnknownInstructionSet;
    if (n_events == 0) return kOk;

    const Batch batch = {values, row_stride,    column_stride, jets,  n_events,
                         offset, offset_stride, probabilities, logits};
    const int chosen = instruction_set == kAutomatic ? best : instruction_set;
    const bool published = n_inputs == inputs(kPublishedGlobals);
    const int times = static_cast<int>(rounds);
    switch (hidden) {
#define SAGE_CASE(WIDTH)                                                        \
    case WIDTH:                                                                 \
        if (published) forward<WIDTH, kPublishedGlobals>(block, times, batch, chosen); \
        else forward<WIDTH, kDitauGlobals>(block, times, batch, chosen);        \
        break;
        SAGE_FOR_EACH_HIDDEN(SAGE_CASE)
#undef SAGE_CASE
    }
    return kOk;
}

// A perceptron: sizes of inputs, hidden layers and outputs; the block holds, for each layer, the weights as (inputs,
// outputs) and then the bias, outputs padded with 0 to a multiple of 8. Results are (n, outputs) row-major. Returns 0, or
// which argument is wrong; nothing is written then.
SAGE_EXPORT int32_t sage_perceptron(const float* block, int64_t n_parameters, const int64_t* sizes, int64_t n_layers,
                                    const float* values, int64_t row_stride, int64_t column_stride, int64_t n_events,
                                    float* out, int32_t instruction_set) {
    if (!sizes || n_layers < 1 || n_layers > kMostLayers) return kWrongParameterCount;
    Layers layers = {static_cast<int>(n_layers), {}, {}, {}};
    int64_t used = 0;
    for (int64_t l = 0; l <= n_layers; ++l) {
        const bool hidden = l > 0 && l < n_layers;
        if (sizes[l] < 1 || sizes[l] > kWidest || (hidden && sizes[l] % kTile)) return kWrongParameterCount;
        layers.size[l] = static_cast<int>(sizes[l]);
        if (l == 0) continue;
        layers.weight[l - 1] = block + used;
        used += sizes[l - 1] * padded(sizes[l]);
        layers.bias[l - 1] = block + used;
        used += padded(sizes[l]);
    }
    if (n_parameters != used) return kWrongParameterCount;
    if (n_events < 0 || !block || (n_events > 0 && (!values || !out))) return kBadArgument;
    const int best = best_instruction_set();
    if (instruction_set < kAutomatic || instruction_set > best) return kUnknownInstructionSet;
    const PerceptronBatch batch = {values, row_stride, column_stride, n_events, out};
    switch (instruction_set == kAutomatic ? best : instruction_set) {
#if defined(__x86_64__)
        case kAvx512:
            avx512::run_perceptron(layers, batch);
            break;
        case kAvx2:
            avx2::run_perceptron(layers, batch);
            break;
#endif
        default:
            baseline::run_perceptron(layers, batch);
    }
    return kOk;
}

// The di-tau quantities, `stride` elements from one to the next; constants as in DitauConstants, columns as in
// DitauColumn, each contiguous. Returns 0, or which argument is wrong; nothing is written then.
SAGE_EXPORT int32_t sage_ditau(const float* constants, int64_t n_constants, const float* const* columns,
                               int64_t n_columns, int64_t n_events, float* out, int64_t stride,
                               int32_t instruction_set) {
    if (n_constants != kDitauConstants) return kWrongParameterCount;
    if (n_columns != kDitauColumns || n_events < 0 || !constants || !columns || stride < n_events) return kBadArgument;
    const int best = best_instruction_set();
    if (instruction_set < kAutomatic || instruction_set > best) return kUnknownInstructionSet;
    if (n_events == 0) return kOk;
    if (!out) return kBadArgument;
    DitauConstants known;
    memcpy(&known, constants, sizeof known);
    DitauBatch batch = {{}, n_events, out, stride};
    memcpy(batch.column, columns, sizeof batch.column);
    switch (instruction_set == kAutomatic ? best : instruction_set) {
#if defined(__x86_64__)
        case kAvx512:
            avx512::run_ditau(known, batch);
            break;
        case kAvx2:
            avx2::run_ditau(known, batch);
            break;
#endif
        default:
            baseline::run_ditau(known, batch);
    }
    return kOk;
}

#include "inputs.h"
#include "unbinned.h"

#else  // one kernel, SAGE_LANES events at a time ------------------------------------------------------------------------

namespace {
namespace SAGE_NAMESPACE {

constexpr int kLanes = SAGE_LANES;
typedef float V __attribute__((vector_size(4 * SAGE_LANES)));
typedef int32_t I __attribute__((vector_size(4 * SAGE_LANES)));

SAGE_INLINE V spread(float x) { return x - V{}; }
// Comparisons are written so that NaN goes through, as in torch.
SAGE_INLINE V relu(V x) { return V{} > x ? V{} : x; }
SAGE_INLINE V leaky(V x) { return x < V{} ? kLeak * x : x; }
SAGE_INLINE V larger(V a, V b) { return a > b ? a : b; }

// exp within about 1 ulp; 0 below -87.3 and infinite above 88.3, where float runs out.
SAGE_INLINE V exponential(V x) {
    constexpr float kLow = -87.3f, kHigh = 88.3f;
    const V clamped_low = x < kLow ? spread(kLow) : x;
    const V clamped = clamped_low > kHigh ? spread(kHigh) : clamped_low;
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
    const V shifted = clamped * 1.44269504f + 12582912.0f;
    const V n = shifted - 12582912.0f;
    V r = n * -0.693359375f + clamped;
    r = n * 2.12194440e-4f + r;
    V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r) * r + r + 1.0f;
    // Unsigned: the bits of a NaN shift too, and its product stays NaN whatever the factor.
    typedef uint32_t U __attribute__((vector_size(4 * SAGE_LANES)));
    const U bits = ((U)shifted + 127u) << 23;
    const V value = p * (V)bits;
    const V positive = x < kLow ? V{} : value;
    return x > kHigh ? spread(__builtin_inff()) : positive;
}

SAGE_INLINE V sigmoid(V x) { return 1.0f / (1.0f + exponential(-x)); }

// y[n] = weight @ x[n] + bias for N nodes of In numbers each; R outputs at a time keep N * R sums in registers.
template <int N, int R, int Out, int In>
__attribute__((noinline)) void multiply(const Product<Out, In>& product, const V* x, V* y) {
    static_assert(Out % R == 0, "tiles must fit");
    for (int o = 0; o < Out; o += R) {
        V sum[R][N];
        SAGE_UNROLL
        for (int r = 0; r < R; ++r) {
            SAGE_UNROLL
            for (int n = 0; n < N; ++n) sum[r][n] = spread(product.bias[o + r]);
        }
        for (int k = 0; k < In; ++k) {
            SAGE_UNROLL
            for (int r = 0; r < R; ++r) {
                const float weight = product.weight[k][o + r];
                SAGE_UNROLL
                for (int n = 0; n < N; ++n) sum[r][n] = weight * x[n * In + k] + sum[r][n];
            }
        }
        SAGE_UNROLL
        for (int r = 0; r < R; ++r) {
            SAGE_UNROLL
            for (int n = 0; n < N; ++n) y[n * Out + o + r] = sum[r][n];
        }
    }
}

// Outputs per tile: what the registers hold (32 in AVX-512, else 16).
constexpr int tile(int n_nodes) {
    return kLanes == 16 ? (n_nodes == 1 ? 16 : n_nodes <= 3 ? 8 : 4) : (n_nodes == 1 ? 8 : n_nodes <= 3 ? 4 : 2);
}

template <int N, int kHidden>
SAGE_INLINE void multiply_nodes(const Product<kHidden, kHidden>& product, const V* x, V* y) {
    multiply<N, tile(N)>(product, x, y);
}

// The graph of one jet pattern: nodes that exist have consecutive places.
template <bool Jet1, bool Jet2>
struct Graph {
    static constexpr int n_nodes = 3 + Jet1 + Jet2;
    static constexpr int n_det = 2 + Jet1 + Jet2;  // without MET, which comes last

    static constexpr bool exists(int node) { return node == kJet1 ? Jet1 : node == kJet2 ? Jet2 : true; }
    static constexpr bool exists(Edge edge) { return exists(edge.first) && exists(edge.second); }
    static constexpr int place(int node) {
        return node <= kJet1 ? node : node == kJet2 ? 2 + Jet1 : n_nodes - 1;
    }
    // Number of incoming edges; parallel edges count.
    template <int M>
    static constexpr int degree(const Edge (&edges)[M], int node) {
        int count = 0;
        for (const Edge& edge : edges) count += exists(edge) && (edge.first == node || edge.second == node);
        return count;
    }
    static constexpr int parallel(int a, int b) {
        int count = 0;
        for (const Edge& edge : kUncEdges)
            count += (edge.first == a && edge.second == b) || (edge.first == b && edge.second == a);
        return exists(a) && exists(b) ? count : 0;
    }
};

// x[place] = constant of the node + slopes times its inputs, for each node that exists.
template <class G, int Out, int M>
SAGE_INLINE void expand(const NodeAffine<Out>& affine, const NodeInput (&inputs)[M], const V* in, int n_nodes, V* x) {
    SAGE_UNROLL
    for (int node = 0; node < kNodes; ++node) {
        if (!G::exists(node) || G::place(node) >= n_nodes) continue;
        V* out = x + G::place(node) * Out;
        for (int o = 0; o < Out; ++o) {
            V sum = spread(affine.constant[node][o]);
            SAGE_UNROLL
            for (int i = 0; i < M; ++i)
                if (inputs[i].node == node) sum = affine.slope[inputs[i].slot][o] * in[inputs[i].column] + sum;
            out[o] = sum;
        }
    }
}

// Mean over the nodes of relu(readout + global part).
template <int N, int kHidden>
SAGE_INLINE V pool(const V* y, V global, V start, int n_nodes) {
    V sum = start;
    SAGE_UNROLL
    for (int n = 0; n < N; ++n) sum += relu(y[n * kHidden] + global);
    return sum * (1.0f / static_cast<float>(n_nodes));
}

// Inlined although both choices of inputs call it: that decides which products and sums are fused, hence the last bit.
template <class G, int kHidden>
SAGE_INLINE void deterministic(const Folded<kHidden>& f, const V* in, V* h) {
    constexpr int n = G::n_det;
    V x[n * kHidden], y[n * kHidden];
    expand<G>(f.det_node, kDetInputs, in, n, x);
    expand<G>(f.det_first, kDetInputs, in, n, y);
    for (int round = 0; round < f.rounds; ++round) {
        if (round > 0) multiply_nodes<n>(f.det_round[round], x, y);
        const float keep = f.det_keep[round];
        for (int o = 0; o < kHidden; ++o) {
            const float slope = f.det_edge_slope[round][o];
            V sum[n] = {};
            SAGE_UNROLL
            for (int e = 0; e < kDetNEdges; ++e) {
                if (!G::exists(kDetEdges[e])) continue;
                const int a = G::place(kDetEdges[e].first), b = G::place(kDetEdges[e].second);
                const V edge = slope * in[kDetEdgeColumn + e];
                sum[b] += relu(y[a * kHidden + o] + edge);
                sum[a] += relu(y[b * kHidden + o] + edge);
            }
            SAGE_UNROLL
            for (int node = 0; node < kMet; ++node) {
                if (!G::exists(node)) continue;
                const int i = G::place(node);
                const float share = 1.0f / static_cast<float>(G::degree(kDetEdges, node));
                x[i * kHidden + o] = relu(sum[i] * share + keep * x[i * kHidden + o]);
            }
        }
    }
    multiply_nodes<n>(f.det_readout, x, y);
    for (int o = 0; o < kHidden; ++o) {
        // The bias of the readout is in y already.
        const V global = f.det_global_slope[o] * in[kDetGlobalColumn];
        const V met = relu(f.det_met[o] + f.det_readout.bias[o] + global);
        h[o] = pool<n, kHidden>(y + o, global, met, G::n_nodes);
    }
}

// Attention times gate: of each node, and summed over each node's incoming edges with and without their scalar.
template <class G, int kHidden>
SAGE_INLINE void attend(const Folded<kHidden>& f, const V* in, V* node_weight, V* mean_weight, V* mean_scaled) {
    constexpr int n = G::n_nodes;
    V score[n], gate[n], edge_score[n], edge_gate[n];
    expand<G>(f.node_score, kUncInputs, in, n, score);
    expand<G>(f.node_gate, kUncInputs, in, n, gate);
    expand<G>(f.edge_score, kUncInputs, in, n, edge_score);
    expand<G>(f.edge_gate, kUncInputs, in, n, edge_gate);

    V largest = score[0], total = V{};
    SAGE_UNROLL
    for (int i = 1; i < n; ++i) largest = larger(largest, score[i]);
    SAGE_UNROLL
    for (int i = 0; i < n; ++i) {
        score[i] = exponential(score[i] - largest);
        total += score[i];
    }
    SAGE_UNROLL
    for (int i = 0; i < n; ++i) {
        node_weight[i] = score[i] / total * sigmoid(gate[i]);
        mean_weight[i] = mean_scaled[i] = V{};
    }

    SAGE_UNROLL
    for (int source = 0; source < kNodes; ++source) {
        if (!G::exists(source)) continue;
        // Softmax over the edges that leave this node; an edge of the list leaves it at either end.
        V weight[kUncNEdges];
        V highest = spread(-__builtin_inff()), sum = V{};
        SAGE_UNROLL
        for (int e = 0; e < kUncNEdges; ++e) {
            const Edge edge = kUncEdges[e];
            if (!G::exists(edge) || (edge.first != source && edge.second != source)) continue;
            const int target = G::place(edge.first == source ? edge.second : edge.first);
            weight[e] = f.edge_score_slope * in[kUncEdgeColumn + e] + edge_score[target];
            highest = larger(highest, weight[e]);
        }
        SAGE_UNROLL
        for (int e = 0; e < kUncNEdges; ++e) {
            const Edge edge = kUncEdges[e];
            if (!G::exists(edge) || (edge.first != source && edge.second != source)) continue;
            weight[e] = exponential(weight[e] - highest);
            sum += weight[e];
        }
        SAGE_UNROLL
        for (int e = 0; e < kUncNEdges; ++e) {
            const Edge edge = kUncEdges[e];
            if (!G::exists(edge) || (edge.first != source && edge.second != source)) continue;
            const int target = edge.first == source ? edge.second : edge.first, i = G::place(target);
            const V scalar = in[kUncEdgeColumn + e];
            const float share = 1.0f / static_cast<float>(G::degree(kUncEdges, target));
            const V open = sigmoid(f.edge_gate_slope * scalar + edge_gate[G::place(source)]);
            const V kept = weight[e] / sum * open * share;
            mean_weight[i] += kept;
            mean_scaled[i] = kept * scalar + mean_scaled[i];
        }
    }
}

template <class G, int kHidden, int Globals>
void uncertainty(const FoldedFor<kHidden, Globals>& f, const V* in, V* h) {
    constexpr int n = G::n_nodes;
    V node_weight[n], mean_weight[n], mean_scaled[n];
    attend<G>(f, in, node_weight, mean_weight, mean_scaled);
    const V* const globals = in + kUncGlobalColumn;
    V global[kHidden], x[n * kHidden], y[n * kHidden], from_global[kHidden];
    multiply<1, tile(1)>(f.unc_global, globals, global);
    for (int o = 0; o < kHidden; ++o) global[o] = leaky(global[o]);
    expand<G>(f.unc_node, kUncInputs, in, n, x);
    expand<G>(f.unc_first, kUncInputs, in, n, y);
    for (int i = 0; i < n; ++i) {
        for (int o = 0; o < kHidden; ++o) {
            x[i * kHidden + o] *= node_weight[i];
            y[i * kHidden + o] *= node_weight[i];
        }
    }
    for (int round = 0; round < f.rounds; ++round) {
        if (round > 0) multiply_nodes<n>(f.unc_round[round], x, y);
        multiply_nodes<1>(f.unc_from_global[round], global, from_global);
        const float keep = f.unc_keep[round];
        for (int o = 0; o < kHidden; ++o) {
            const float slope = f.unc_edge_slope[round][o], offset = f.unc_edge_offset[round][o];
            SAGE_UNROLL
            for (int target = 0; target < kNodes; ++target) {
                if (!G::exists(target)) continue;
                const int i = G::place(target);
                const float share = 1.0f / static_cast<float>(G::degree(kUncEdges, target));
                V sum = from_global[o];
                SAGE_UNROLL
                for (int source = 0; source < kNodes; ++source) {
                    const int edges = G::parallel(source, target);
                    if (edges > 0) sum = static_cast<float>(edges) * share * y[G::place(source) * kHidden + o] + sum;
                }
                sum = slope * mean_scaled[i] + sum;
                sum = offset * mean_weight[i] + sum;
                x[i * kHidden + o] = leaky(keep * x[i * kHidden + o] + sum);
            }
        }
    }
    multiply_nodes<n>(f.unc_readout, x, y);
    V joined[kHidden];
    multiply<1, tile(1)>(f.unc_readout_global, globals, joined);
    for (int o = 0; o < kHidden; ++o) h[o] = pool<n, kHidden>(y + o, joined[o], V{}, n);
}

// Fuses h = (h_det, h_unc) into logits.
template <int kHidden>
SAGE_INLINE void head(const Folded<kHidden>& f, V* h, V* logits) {
    V hidden[kHidden], gate[kHidden], narrow[kNarrow], residual[kNarrow];
    multiply_nodes<1>(f.gate_hidden, h + kHidden, hidden);
    for (int o = 0; o < kHidden; ++o) hidden[o] = leaky(hidden[o]);
    multiply_nodes<1>(f.gate, hidden, gate);
    for (int o = 0; o < kHidden; ++o) h[kHidden + o] *= 1.0f + sigmoid(gate[o]);
    multiply<1, tile(1)>(f.head_hidden, h, hidden);
    for (int o = 0; o < kHidden; ++o) hidden[o] = leaky(hidden[o]);
    multiply<1, kNarrow>(f.head_narrow, hidden, narrow);
    multiply<1, kNarrow>(f.head_residual, h, residual);
    for (int o = 0; o < kNarrow; ++o) narrow[o] = leaky(narrow[o]) + residual[o];
    multiply<1, kClasses>(f.classes, narrow, logits);
}

// Copies rows into one vector per input.
template <int Inputs>
SAGE_INLINE void load(const Batch& batch, const int64_t* rows, V* in) {
    for (int c = 0; c < Inputs; ++c) {
        const float* const column = batch.values + c * batch.column_stride;
        float lanes[kLanes];
        for (int i = 0; i < kLanes; ++i) lanes[i] = column[rows[i] * batch.row_stride];
        memcpy(in + c, lanes, sizeof lanes);
    }
}

SAGE_INLINE void store(const V* numbers, float* out, const int64_t* rows, int n_rows) {
    float lanes[kClasses][kLanes];
    memcpy(lanes, numbers, sizeof lanes);
    for (int i = 0; i < n_rows; ++i)
        for (int k = 0; k < kClasses; ++k) out[rows[i] * kClasses + k] = lanes[k][i];
}

template <bool Jet1, bool Jet2, int kHidden, int Globals>
void run_pattern(const FoldedFor<kHidden, Globals>& f, const Batch& batch, int64_t* rows, int n_rows) {
    using G = Graph<Jet1, Jet2>;
    constexpr int n_inputs = inputs(Globals);
    for (int i = 0; i < kLanes - 1; ++i) rows[n_rows + i] = n_rows > 0 ? rows[n_rows - 1] : 0;
    for (int first = 0; first < n_rows; first += kLanes) {
        V in[n_inputs], h[2 * kHidden], logits[kClasses];
        load<n_inputs>(batch, rows + first, in);
        deterministic<G>(f, in, h);
        uncertainty<G>(f, in, h + kHidden);
        head(f, h, logits);
        if (batch.offset) {
            for (int k = 0; k < kClasses; ++k) {
                float lanes[kLanes];
                for (int i = 0; i < kLanes; ++i) lanes[i] = batch.offset[rows[first + i] * batch.offset_stride + k];
                V added;
                memcpy(&added, lanes, sizeof lanes);
                logits[k] += added;
            }
        }

        // 0 where all inputs are finite, else NaN: in the dense module masked places multiply by 0, which does this.
        V poison = V{};
        for (int c = 0; c < n_inputs; ++c) poison += 0.0f * in[c];
        V largest = logits[0] += poison, sum = V{}, probabilities[kClasses];
        for (int k = 1; k < kClasses; ++k) largest = larger(largest, logits[k] += poison);
        for (int k = 0; k < kClasses; ++k) sum += probabilities[k] = exponential(logits[k] - largest);
        for (int k = 0; k < kClasses; ++k) probabilities[k] /= sum;

        const int full = n_rows - first < kLanes ? n_rows - first : kLanes;
        store(probabilities, batch.probabilities, rows + first, full);
        if (batch.logits) store(logits, batch.logits, rows + first, full);
    }
}

template <int kHidden, int Globals>
void run(const FoldedFor<kHidden, Globals>& f, const Batch& batch) {
    for (int64_t start = 0; start < batch.n_events; start += kChunk) {
        const int64_t stop = start + kChunk < batch.n_events ? start + kChunk : batch.n_events;
        int64_t rows[4][kChunk + kLanes];
        int n_rows[4] = {};
        for (int64_t i = start; i < stop; ++i) {
            const int pattern = (batch.jets[2 * i] != 0) + 2 * (batch.jets[2 * i + 1] != 0);
            rows[pattern][n_rows[pattern]++] = i;
        }
        run_pattern<false, false>(f, batch, rows[0], n_rows[0]);
        run_pattern<true, false>(f, batch, rows[1], n_rows[1]);
        run_pattern<false, true>(f, batch, rows[2], n_rows[2]);
        run_pattern<true, true>(f, batch, rows[3], n_rows[3]);
    }
}

#include "ditau.h"
#include "perceptron.h"
#include "inputs.h"
#include "unbinned.h"

}  // namespace SAGE_NAMESPACE
}  // namespace

#endif
