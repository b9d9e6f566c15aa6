// Viterbi search of circular shift-register trellises, one block per trellis.  Meaning: kernels/trellis.py.
// K (bits per symbol) is a compile-time constant.  A stage replaces one digit of the ring, so a group of 2^K states
// that differ in this digit only is read and written by one thread: the metrics are updated in place, in shared memory
// where they fit.  Additions only, in the order of the CPU: the same scores give the same path.

#ifndef K
#define K 2
#endif
#define SYMBOLS (1 << K)
#define UNREACHED (-1e30f)

// scores [T, N, M], lengths [T], labels [2^(L + K)], decisions [T, N, 2^L] (scratch), global_metrics [T, 2^L] (scratch,
// used if in_shared is 0), symbols [T, N], metric [T]
extern "C" __global__ void trellis_search(const float* scores, const long long* lengths, const int* labels,
                                          long long N, long long M, int L, int flush, int in_shared,
                                          float* global_metrics, unsigned char* decisions, unsigned char* symbols,
                                          float* metric) {
    extern __shared__ float shared_metrics[];
    long long t = blockIdx.x, states = 1LL << L;
    float* metrics = in_shared ? shared_metrics : global_metrics + t * states;
    int stages = (int)lengths[t], digits = L / K;
    scores += t * N * M;
    decisions += t * N * states;
    symbols += t * N;
    for (long long s = threadIdx.x; s < states; s += blockDim.x) metrics[s] = s ? UNREACHED : 0.0f;
    __syncthreads();
    for (int j = 0; j < stages; ++j) {
        int shift = L - K * (j % digits + 1);
        const float* row = scores + j * M;
        for (long long g = threadIdx.x; g < states >> K; g += blockDim.x) {
            long long low = g & ((1LL << shift) - 1), base = (g >> shift << (shift + K)) | low;
            float old[SYMBOLS];
#pragma unroll
            for (int w = 0; w < SYMBOLS; ++w) old[w] = metrics[base + ((long long)w << shift)];
            for (int u = 0; u < SYMBOLS; ++u) {
                long long state = base + ((long long)u << shift);
                float top = row[labels[state]] + old[0];
                int choice = 0;
#pragma unroll
                for (int w = 1; w < SYMBOLS; ++w) {
                    float value = row[labels[((long long)w << L) + state]] + old[w];
                    if (value > top) { top = value; choice = w; }
                }
                metrics[state] = (j >= stages - flush && u) ? UNREACHED : top;
                decisions[j * states + state] = (unsigned char)choice;
            }
        }
        __syncthreads();
    }
    // free end: the best state, the lowest among equals
    __shared__ float tops[1024];
    __shared__ long long wheres[1024];
    float top = metrics[threadIdx.x < states ? threadIdx.x : 0];
    long long where = threadIdx.x < states ? threadIdx.x : 0;
    for (long long s = threadIdx.x + blockDim.x; s < states; s += blockDim.x)
        if (metrics[s] > top) { top = metrics[s]; where = s; }
    tops[threadIdx.x] = top;
    wheres[threadIdx.x] = where;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < blockDim.x; ++i)
        if (tops[i] > top || (tops[i] == top && wheres[i] < where)) { top = tops[i]; where = wheres[i]; }
    metric[t] = top;
    for (int j = stages - 1; j >= 0; --j) {
        int shift = L - K * (j % digits + 1);
        symbols[j] = (unsigned char)((where >> shift) & (SYMBOLS - 1));
        long long oldest = decisions[j * states + where];
        where = (where & ~((long long)(SYMBOLS - 1) << shift)) | (oldest << shift);
    }
}
