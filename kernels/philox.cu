// Shared randomness: Philox4x32-10 (Salmon et al., SC 2011) and the maps to normals and signs of kernels/backend.py.
// Every other .cu is compiled behind this one.  Integers and table look-ups only: bit-identical to the CPU backend.

typedef unsigned int u32;
typedef unsigned long long u64;

__device__ __forceinline__ void philox(u64 position, u64 stream, u64 key, u32 out[4]) {
    u32 c0 = (u32)position, c1 = (u32)(position >> 32), c2 = (u32)stream, c3 = (u32)(stream >> 32);
    u32 k0 = (u32)key, k1 = (u32)(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
        c0 = (u32)(p1 >> 32) ^ c1 ^ k0;
        c1 = (u32)p1;
        c2 = (u32)(p0 >> 32) ^ c3 ^ k1;
        c3 = (u32)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0; out[1] = c1; out[2] = c2; out[3] = c3;
}

// Normal number `half` (0..7) of a block: 16 bits through the quantile table, low halves first.
__device__ __forceinline__ float normal(const u32 words[4], int half, const float* __restrict__ table) {
    return table[(words[half >> 1] >> (16 * (half & 1))) & 0xFFFFu];
}

// words [count, 4] of counters [count]
extern "C" __global__ void random_words(const long long* counters, long long count, u64 key, u64 stream,
                                        long long* words) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    u32 out[4];
    philox((u64)counters[i], stream, key, out);
    for (int w = 0; w < 4; ++w) words[4 * i + w] = out[w];
}

// out [rows, columns]; one thread per counter, per_row counters a row, rows[r] * pitch the first
extern "C" __global__ void normal_rows(const long long* rows, long long count, long long columns, long long per_row,
                                       long long pitch, u64 key, u64 stream, const float* table, float* out) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count * per_row) return;
    long long r = i / per_row, q = i - r * per_row;
    u32 words[4];
    philox((u64)(rows[r] * pitch + q), stream, key, words);
    for (int h = 0; h < 8 && 8 * q + h < columns; ++h) out[r * columns + 8 * q + h] = normal(words, h, table);
}

// out [rows, columns] of +1 and -1; bit b of a block is column 128 q + b, a set bit gives -1.  32 threads per counter, so
// that neighbours write neighbouring columns: thread `lane` writes bit `lane` of each of the four words.
extern "C" __global__ void sign_rows(const long long* rows, long long count, long long columns, long long per_row,
                                     u64 key, u64 stream, float* out) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x, counter = i >> 5;
    int lane = (int)(i & 31);
    if (counter >= count * per_row) return;
    long long r = counter / per_row, q = counter - r * per_row;
    u32 words[4];
    philox((u64)(rows[r] * per_row + q), stream, key, words);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        long long column = 128 * q + 32 * w + lane;
        if (column < columns) out[r * columns + column] = (words[w] >> lane) & 1u ? -1.0f : 1.0f;
    }
}
