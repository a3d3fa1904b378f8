// Perceptrons with SiLU between their layers, sizes known at run time; sage/network/perceptron.py is the numpy twin.
// Included by network.cpp: below SAGE_LANES once per vector width, above it what they share.

#ifndef SAGE_LANES

namespace {

constexpr int kMostLayers = 4;
constexpr int kWidest = 256;
constexpr int kTile = 8;  // outputs at a time; hidden widths are multiples of it

// Layer l turns size[l] numbers into size[l + 1]; weights as the kernel reads them, see `transposed` in the numpy twin.
struct Layers {
    int n_layers;
    int size[kMostLayers + 1];
    const float* weight[kMostLayers];
    const float* bias[kMostLayers];
};
struct PerceptronBatch {
    const float* values;
    int64_t row_stride, column_stride;
    int64_t n_events;
    float* out;
};

constexpr int64_t padded(int64_t size) { return (size + kTile - 1) / kTile * kTile; }

}  // namespace

#else

void run_perceptron(const Layers& layers, const PerceptronBatch& batch) {
    for (int64_t first = 0; first < batch.n_events; first += kLanes) {
        V here[kWidest], next[kWidest];
        int64_t rows[kLanes];
        for (int i = 0; i < kLanes; ++i) rows[i] = first + i < batch.n_events ? first + i : batch.n_events - 1;
        for (int c = 0; c < layers.size[0]; ++c) {
            const float* const column = batch.values + c * batch.column_stride;
            float lanes[kLanes];
            for (int i = 0; i < kLanes; ++i) lanes[i] = column[rows[i] * batch.row_stride];
            memcpy(here + c, lanes, sizeof lanes);
        }
        for (int l = 0; l < layers.n_layers; ++l) {
            const int n_in = layers.size[l], n_out = static_cast<int>(padded(layers.size[l + 1]));
            const bool hidden = l + 1 < layers.n_layers;
            for (int o = 0; o < n_out; o += kTile) {
                V sum[kTile];
                SAGE_UNROLL
                for (int r = 0; r < kTile; ++r) sum[r] = spread(layers.bias[l][o + r]);
                for (int k = 0; k < n_in; ++k) {
                    const float* const weight = layers.weight[l] + static_cast<int64_t>(k) * n_out + o;
                    SAGE_UNROLL
                    for (int r = 0; r < kTile; ++r) sum[r] = weight[r] * here[k] + sum[r];
                }
                SAGE_UNROLL
                for (int r = 0; r < kTile; ++r) next[o + r] = hidden ? sum[r] * sigmoid(sum[r]) : sum[r];
            }
            memcpy(here, next, sizeof(V) * n_out);
        }
        const int n_out = layers.size[layers.n_layers];
        const int full = static_cast<int>(batch.n_events - first < kLanes ? batch.n_events - first : kLanes);
        for (int k = 0; k < n_out; ++k) {
            float lanes[kLanes];
            memcpy(lanes, here + k, sizeof lanes);
            for (int i = 0; i < full; ++i) batch.out[rows[i] * n_out + k] = lanes[i];
        }
    }
}

#endif
