// Viterbi search of circular shift-register trellises, one block per trellis.  Meaning: kernels/trellis.py.
// K (bits per symbol) is a compile-time constant.  A stage replaces one digit of the ring, so a group of 2^K states
// that differ in this digit only is read and written by one thread: the metrics are updated in place, in shared memory
// where they fit.  Integers only, wide enough to need no bounds: the same scores give the same path as on the CPU.

#ifndef K
#define K 2
#endif
#define SYMBOLS (1 << K)
#define UNREACHED (-1000000000)

// The ring as the stage that overwrites `digit` sees it; `low` bits in the second half.
__device__ __forceinline__ long long turned(long long state, int digit, int L, int low) {
    return digit * K < L - low ? state : ((state & ((1LL << low) - 1)) << (L - low) | state >> low);
}

// scores [N, M], starts [T + 1]: rows of the trellises, decisions [N, 2^L] and global_metrics [T, 2^L] (scratch, the
// latter used if in_shared is 0), symbols [N], total [T].  decisions begins with the row starts[0].
extern "C" __global__ void trellis_search(const short* scores, const long long* starts, long long M,
                                          long long by_symbol, long long by_top, int L, int flush, int in_shared,
                                          int* global_metrics, unsigned char* decisions, unsigned char* symbols,
                                          long long* total) {
    extern __shared__ int shared_metrics[];
    long long t = blockIdx.x, states = 1LL << L;
    int* metrics = in_shared ? shared_metrics : global_metrics + t * states;
    int stages = (int)(starts[t + 1] - starts[t]), digits = L / K, low = digits / 2 * K;
    scores += starts[t] * M;
    decisions += (starts[t] - starts[0]) * states;
    symbols += starts[t];
    for (long long s = threadIdx.x; s < states; s += blockDim.x) metrics[s] = s ? UNREACHED : 0;
    __syncthreads();
    for (int j = 0; j < stages; ++j) {
        int digit = j % digits, shift = L - K * (digit + 1);
        int place = digit * K < L - low ? shift : shift + L - low;  // of the digit in the ring as turned
        const short* row = scores + j * M;
        for (long long g = threadIdx.x; g < states >> K; g += blockDim.x) {
            long long base = (g >> shift << (shift + K)) | (g & ((1LL << shift) - 1));
            int old[SYMBOLS];
#pragma unroll
            for (int w = 0; w < SYMBOLS; ++w) old[w] = metrics[base + ((long long)w << shift)];
            for (int u = 0; u < SYMBOLS; ++u) {
                long long state = base + ((long long)u << shift), seen = turned(state, digit, L, low);
                long long rest = seen >> (place + K) << place | (seen & ((1LL << place) - 1));
                long long label = rest % M + by_top * (rest / M) + u * by_symbol + (M << K);  // never below 0
                int top = 0, choice = -1;
#pragma unroll
                for (int w = 0; w < SYMBOLS; ++w) {
                    int value = row[(label - w * by_symbol) & (M - 1)] + old[w];
                    if (choice < 0 || value > top) { top = value; choice = w; }
                }
                metrics[state] = (j >= stages - flush && u) ? UNREACHED : top;
                decisions[j * states + state] = (unsigned char)choice;
            }
        }
        __syncthreads();
    }
    // free end: the best state, among equals the lowest as the last stage sees the ring
    __shared__ int tops[1024];
    __shared__ long long wheres[1024], ranks[1024];
    int last = (stages - 1) % digits, top = UNREACHED;
    long long where = 0, rank = states;
    for (long long s = threadIdx.x; s < states; s += blockDim.x) {
        long long seen = turned(s, last, L, low);
        if (metrics[s] > top || (metrics[s] == top && seen < rank)) { top = metrics[s]; where = s; rank = seen; }
    }
    tops[threadIdx.x] = top;
    wheres[threadIdx.x] = where;
    ranks[threadIdx.x] = rank;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < blockDim.x; ++i)
        if (tops[i] > top || (tops[i] == top && ranks[i] < rank)) { top = tops[i]; where = wheres[i]; rank = ranks[i]; }
    total[t] = top;
    for (int j = stages - 1; j >= 0; --j) {
        int shift = L - K * (j % digits + 1);
        symbols[j] = (unsigned char)((where >> shift) & (SYMBOLS - 1));
        long long oldest = decisions[j * states + where];
        where = (where & ~((long long)(SYMBOLS - 1) << shift)) | (oldest << shift);
    }
}
