// Viterbi search of circular shift-register trellises, one block per trellis.  Meaning: kernels/viterbi.py.
// K (bits per symbol) is a compile-time constant.  A stage replaces one digit of the ring, so a group of 2^K states
// that differ in this digit only is read and written by one thread: the metrics are updated in place, in shared memory
// where they fit.  They are 16-bit integers with the bounds of viterbi.py, the best one subtracted once a turn of the
// ring: the same scores give the same path as on the CPU.
// States and labels are powers of two: 32-bit masks and shifts instead of 64-bit divisions.

#ifndef K
#define K 2
#endif
#define SYMBOLS (1 << K)
#define UNREACHED (-20000)
#if K == 4
typedef u64 Choices;  // the oldest symbols chosen by the states of a group, K bits each
#else
typedef unsigned char Choices;
#endif

// The ring as the stage that overwrites `digit` sees it; `low` bits in the second half.
__device__ __forceinline__ u32 turned(u32 state, int digit, int L, int low) {
    return digit * K < L - low ? state : ((state & ((1u << low) - 1)) << (L - low) | state >> low);
}

// scores [N, 2^log_labels], starts [T + 1]: rows of the trellises, decisions [N, 2^(L - K)] and global_metrics
// [T, 2^L] (scratch, the latter used if in_shared is 0), symbols [N], total [T], all zero.  decisions begins with the row
// starts[0].  At most 1,024 threads; without the bound some compilers take more registers than a block of 1,024 has.
extern "C" __global__ void __launch_bounds__(1024) trellis_search(
        const short* __restrict__ scores, const long long* starts, int log_labels, int by_symbol, int by_top, int L, int flush,
        int in_shared, short* global_metrics, Choices* decisions, unsigned char* symbols, long long* total) {
    extern __shared__ short shared_metrics[];
    __shared__ int tops[1024];
    __shared__ u32 wheres[1024], ranks[1024];
    int t = blockIdx.x;
    u32 states = 1u << L, groups = states >> K, mask = (1u << log_labels) - 1;
    short* metrics = in_shared ? shared_metrics : global_metrics + ((long long)t << L);
    int stages = (int)(starts[t + 1] - starts[t]), digits = L / K, low = digits / 2 * K;
    scores += starts[t] << log_labels;
    decisions += (starts[t] - starts[0]) * groups;
    symbols += starts[t];
    for (u32 s = threadIdx.x; s < states; s += blockDim.x) metrics[s] = s ? UNREACHED : 0;
    __syncthreads();
    for (int j = 0, digit = 0; j < stages; ++j, digit = digit + 1 == digits ? 0 : digit + 1) {
        if (digit == 0 && j) {
            int best = -32768;
            for (u32 s = threadIdx.x; s < states; s += blockDim.x) best = max(best, (int)metrics[s]);
            tops[threadIdx.x] = best;
            __syncthreads();
            for (u32 half = blockDim.x / 2; half; half /= 2) {  // a power of two
                if (threadIdx.x < half) tops[threadIdx.x] = max(tops[threadIdx.x], tops[threadIdx.x + half]);
                __syncthreads();
            }
            best = tops[0];
            if (threadIdx.x == 0) total[t] += best;
            for (u32 s = threadIdx.x; s < states; s += blockDim.x) metrics[s] -= best;
            __syncthreads();
        }
        int shift = L - K * (digit + 1);
        int place = digit * K < L - low ? shift : shift + L - low;  // of the digit in the ring as turned
        const short* row = scores + ((long long)j << log_labels);
        Choices* chosen = decisions + (long long)j * groups;
        bool flushed = j >= stages - flush;
        for (u32 g = threadIdx.x; g < groups; g += blockDim.x) {
            u32 base = (g >> shift << (shift + K)) | (g & ((1u << shift) - 1));
            u32 seen = turned(base, digit, L, low);
            u32 rest = seen >> (place + K) << place | (seen & ((1u << place) - 1));
            u32 label = (rest & mask) + by_top * (rest >> log_labels);
            // A score depends on (u - w) mod 2^K alone: labels grow by M / 2^K with u.  The lowest bits of a metric say
            // which w it is of, so that one maximum finds the best and, among equals, the lowest w.
            int old[SYMBOLS];
#pragma unroll
            for (int w = 0; w < SYMBOLS; ++w) old[w] = metrics[base + ((u32)w << shift)] * SYMBOLS + SYMBOLS - 1 - w;
            Choices all = 0;
#pragma unroll (K == 4 ? 1 : SYMBOLS)
            for (int u = 0; u < SYMBOLS; ++u) {
                int top = -(1 << 30);
#pragma unroll
                for (int w = 0; w < SYMBOLS; ++w) {
                    u32 difference = (u32)(u - w) & (SYMBOLS - 1);
                    top = max(top, row[(label + difference * by_symbol) & mask] * SYMBOLS + old[w]);
                }
                metrics[base + ((u32)u << shift)] = flushed && u ? UNREACHED : top >> K;
                all |= (Choices)(~top & (SYMBOLS - 1)) << (K * u);
            }
            chosen[g] = all;
        }
        __syncthreads();
    }
    // free end: the best state, among equals the lowest as the last stage sees the ring
    int last = (stages - 1) % digits, top = -32768;
    u32 where = 0, rank = states;
    for (u32 s = threadIdx.x; s < states; s += blockDim.x) {
        u32 seen = turned(s, last, L, low);
        if (metrics[s] > top || (metrics[s] == top && seen < rank)) { top = metrics[s]; where = s; rank = seen; }
    }
    tops[threadIdx.x] = top;
    wheres[threadIdx.x] = where;
    ranks[threadIdx.x] = rank;
    __syncthreads();
    if (threadIdx.x) return;
    for (u32 i = 1; i < blockDim.x; ++i)
        if (tops[i] > top || (tops[i] == top && ranks[i] < rank)) { top = tops[i]; where = wheres[i]; rank = ranks[i]; }
    total[t] += top;
    for (int j = stages - 1; j >= 0; --j) {
        int shift = L - K * (j % digits + 1);
        u32 above = where >> (shift + K), below = where & ((1u << shift) - 1), symbol = (where >> shift) & (SYMBOLS - 1);
        symbols[j] = (unsigned char)symbol;
        Choices all = decisions[(long long)j * groups + (above << shift | below)];
        u32 oldest = (u32)(all >> (K * symbol)) & (SYMBOLS - 1);
        where = above << (shift + K) | oldest << shift | below;
    }
}
