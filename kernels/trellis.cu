// Viterbi search of circular shift-register trellises.  Meaning: kernels/viterbi.py.  How launched: kernels/launch.py.
// K (bits per symbol) and CLUSTER (blocks that share a trellis) are compile-time constants.  A stage replaces one digit
// of the ring, so a group of 2^K states that differ in this digit only is read and written by one thread: the metrics
// are updated in place, in shared memory where they fit.  Block r of a cluster holds the metrics of the states whose
// highest bits are r.  It works on the groups whose highest bits are r; for the one or two digits that lie among those
// bits, their states are in several blocks, whose shared memory all blocks of a cluster can read and write.
// Metrics are 16-bit integers with the bounds of viterbi.py, the best one subtracted once a turn of the ring: the same
// scores give the same path as on the CPU.
// States and labels are powers of two: 32-bit masks and shifts instead of 64-bit divisions.

#ifndef K
#define K 2
#endif
#ifndef CLUSTER
#define CLUSTER 1
#endif
#define SYMBOLS (1 << K)
#define UNREACHED (-20000)
#if K == 4
typedef u64 Choices;  // the oldest symbols chosen by the states of a group, K bits each
#else
typedef unsigned char Choices;
#endif

// `barrier` waits for all threads that share the trellis; `in_block` gives, for a pointer into the shared memory of this
// block, that to the same place in another block of the cluster.
#if CLUSTER > 1  // compute capability 9.0 and higher
#define BLOCKS __cluster_dims__(CLUSTER)
__device__ __forceinline__ void barrier() { __cluster_barrier_arrive(); __cluster_barrier_wait(); }
template <class T> __device__ __forceinline__ T* in_block(T* pointer, u32 block) {
    return (T*)__cluster_map_shared_rank(pointer, block);
}
#else
#define BLOCKS
__device__ __forceinline__ void barrier() { __syncthreads(); }
template <class T> __device__ __forceinline__ T* in_block(T* pointer, u32) { return pointer; }
#endif

// The ring as the stage that overwrites `digit` sees it; `low` bits in the second half.
__device__ __forceinline__ u32 turned(u32 state, int digit, int L, int low) {
    return digit * K < L - low ? state : ((state & ((1u << low) - 1)) << (L - low) | state >> low);
}

// The largest key of all threads that share a trellis; keys [blockDim.x], shared memory.
__device__ __forceinline__ u64 largest(u64 key, u64* keys) {
    keys[threadIdx.x] = key;
    for (u32 half = blockDim.x / 2; half; half /= 2) {  // a power of two
        __syncthreads();
        if (threadIdx.x < half) keys[threadIdx.x] = max(keys[threadIdx.x], keys[threadIdx.x + half]);
    }
    barrier();
    for (u32 block = 0; block < CLUSTER; ++block) key = max(key, *in_block(keys, block));
    return key;
}

// scores [N, 2^log_labels], starts [T + 1]: rows of the trellises, decisions [N, 2^(L - K)] and global_metrics
// [T, 2^L] (scratch, the latter used if in_shared is 0, which a cluster cannot), symbols [N], total [T], all zero.
// decisions begins with the row starts[0].  At most 1,024 threads; without the bound some compilers take more registers
// than a block of 1,024 has.
extern "C" __global__ void BLOCKS __launch_bounds__(1024) trellis_search(
        const short* __restrict__ scores, const long long* starts, int log_labels, int by_symbol, int by_top, int L, int flush,
        int in_shared, short* global_metrics, Choices* decisions, unsigned char* symbols, long long* total) {
    extern __shared__ short shared_metrics[];
    __shared__ u64 keys[1024];
    int t = blockIdx.x / CLUSTER;
    u32 rank = blockIdx.x % CLUSTER, states = 1u << L, own = states / CLUSTER, mask = (1u << log_labels) - 1;
    u32 groups = states >> K, own_groups = groups / CLUSTER;
    int log_own = L - (31 - __clz(CLUSTER));
    short* metrics = in_shared || CLUSTER > 1 ? shared_metrics : global_metrics + ((long long)t << L);
    int stages = (int)(starts[t + 1] - starts[t]), digits = L / K, low = digits / 2 * K;
    scores += starts[t] << log_labels;
    decisions += (starts[t] - starts[0]) * groups;
    symbols += starts[t];
    for (u32 s = threadIdx.x; s < own; s += blockDim.x) metrics[s] = rank || s ? UNREACHED : 0;
    barrier();
    for (int j = 0, digit = 0; j < stages; ++j, digit = digit + 1 == digits ? 0 : digit + 1) {
        if (digit == 0 && j) {
            int best = -32768;
            for (u32 s = threadIdx.x; s < own; s += blockDim.x) best = max(best, (int)metrics[s]);
            best = (int)largest(best + 32768, keys) - 32768;
            if (rank == 0 && threadIdx.x == 0) total[t] += best;
            for (u32 s = threadIdx.x; s < own; s += blockDim.x) metrics[s] -= best;
            barrier();
        }
        int shift = L - K * (digit + 1);
        int place = digit * K < L - low ? shift : shift + L - low;  // of the digit in the ring as turned
        const short* row = scores + ((long long)j << log_labels);
        Choices* chosen = decisions + (long long)j * groups;
        bool flushed = j >= stages - flush;
        for (u32 g = rank * own_groups + threadIdx.x; g < (rank + 1) * own_groups; g += blockDim.x) {
            u32 base = (g >> shift << (shift + K)) | (g & ((1u << shift) - 1));
            u32 seen = turned(base, digit, L, low);
            u32 rest = seen >> (place + K) << place | (seen & ((1u << place) - 1));
            u32 label = (rest & mask) + by_top * (rest >> log_labels);
            short* metric[SYMBOLS];  // of the group's states
#pragma unroll
            for (int w = 0; w < SYMBOLS; ++w) {
                u32 state = base + ((u32)w << shift);
                metric[w] = metrics + (CLUSTER > 1 ? state & (own - 1) : state);
                if (shift + K > log_own) metric[w] = in_block(metric[w], state >> log_own);
            }
            // A score depends on (u - w) mod 2^K alone: labels grow by M / 2^K with u.  The lowest bits of a metric say
            // which w it is of, so that one maximum finds the best and, among equals, the lowest w.
            int old[SYMBOLS];
#pragma unroll
            for (int w = 0; w < SYMBOLS; ++w) old[w] = *metric[w] * SYMBOLS + SYMBOLS - 1 - w;
            Choices all = 0;
#pragma unroll (K == 4 ? 1 : SYMBOLS)
            for (int u = 0; u < SYMBOLS; ++u) {
                int top = -(1 << 30);
#pragma unroll
                for (int w = 0; w < SYMBOLS; ++w) {
                    u32 difference = (u32)(u - w) & (SYMBOLS - 1);
                    top = max(top, row[(label + difference * by_symbol) & mask] * SYMBOLS + old[w]);
                }
                *metric[u] = flushed && u ? UNREACHED : top >> K;
                all |= (Choices)(~top & (SYMBOLS - 1)) << (K * u);
            }
            chosen[g] = all;
        }
        barrier();
    }
    // free end: the best state, among equals the lowest as the last stage sees the ring
    u64 key = 0;
    for (u32 s = threadIdx.x; s < own; s += blockDim.x) {
        u32 state = rank * own + s, seen = turned(state, (stages - 1) % digits, L, low);
        key = max(key, (u64)(metrics[s] + 32768) << 48 | (u64)(states - 1 - seen) << 24 | state);
    }
    key = largest(key, keys);
    if (CLUSTER > 1) barrier();  // a block's shared memory ends with it
    if (rank || threadIdx.x) return;
    total[t] += (int)(key >> 48) - 32768;
    u32 where = (u32)key & 0xFFFFFF;
    for (int j = stages - 1; j >= 0; --j) {
        int shift = L - K * (j % digits + 1);
        u32 above = where >> (shift + K), below = where & ((1u << shift) - 1), symbol = (where >> shift) & (SYMBOLS - 1);
        symbols[j] = (unsigned char)symbol;
        Choices all = decisions[(long long)j * groups + (above << shift | below)];
        u32 oldest = (u32)(all >> (K * symbol)) & (SYMBOLS - 1);
        where = above << (shift + K) | oldest << shift | below;
    }
}
