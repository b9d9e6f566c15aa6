// Generate-and-score search of PFR: candidates are drawn, scored and forgotten.  Meaning: Backend.fused_pfr.
// Sums are added in another order than on the CPU, which can only move the choice between nearly equal candidates.

// One block per (chunk along x, tile of candidates along y), one warp per candidate, lanes over counters of 8 coordinates.
// mu [n, columns]; best, index [n, tiles]: the best candidate of each tile, the lowest index among equals.
extern "C" __global__ void fused_pfr(const float* mu, long long n, long long columns, u64 key, u64 stream,
                                     long long first, long long count, const float* log_times, float energy,
                                     long long tile, const float* table, float* best, long long* index) {
    long long c = blockIdx.x;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    long long per_row = (columns + 7) / 8, begin = blockIdx.y * tile, end = min(begin + tile, count);
    const float* mean = mu + c * columns;
    float top = __int_as_float(0xff800000);
    long long where = begin;
    for (long long i = begin + warp; i < end; i += warps) {
        u64 row = (u64)((first + i) * n + c);
        float dot = 0.0f, square = 0.0f;
        for (long long q = lane; q < per_row; q += 32) {
            u32 words[4];
            philox(row * per_row + q, stream, key, words);
#pragma unroll
            for (int h = 0; h < 8; ++h)
                if (8 * q + h < columns) {
                    float z = normal(words, h, table);
                    dot += z * mean[8 * q + h];
                    square += z * z;
                }
        }
        float score = dot - energy * square;
        for (int step = 16; step; step >>= 1) score += __shfl_xor_sync(0xffffffffu, score, step);
        score -= log_times[i];
        if (score > top) { top = score; where = i; }
    }
    __shared__ float tops[32];
    __shared__ long long wheres[32];
    if (lane == 0) { tops[warp] = top; wheres[warp] = where; }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < warps; ++w)
            if (tops[w] > top || (tops[w] == top && wheres[w] < where)) { top = tops[w]; where = wheres[w]; }
        best[c * gridDim.y + blockIdx.y] = top;
        index[c * gridDim.y + blockIdx.y] = where;
    }
}
