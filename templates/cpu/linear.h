/* LINEAR: out[t][row] = Σ_k W[row][k] x[t][k] (+ bias[row]). Work items: tiles of 16 rows.
 *
 * A tile is one contiguous stream of bytes, and so are the tiles of one thread. Tokens go in register blocks of
 * four, two and one, inside a tile, so that the tile comes from memory once. Order of float operations: FORMAT.md, 4. */
#ifndef N730_LINEAR_H
#define N730_LINEAR_H
#include "dot.h"
#include "n730_call.h"

#ifndef N730_AHEAD /* the compiler's tuner chooses it for each kernel */
#define N730_AHEAD 3072 /* bytes that software prefetch runs ahead: the hardware's stops at each 4 KiB page */
#endif

#define CODE_UNIT 0x1p-10f /* a coded scale is FP16 × code × this */
enum { SUPER = 8 }; /* groups that share one FP16 in the formats with coded scales */

N730_FN int64_t groups_of(int64_t cols) { return (cols + GROUP - 1) / GROUP; }
/* Bytes of the header of a super-block, and of the fields of one group. */
enum { SUPER_HEADER = TILE * 2 + TILE * SUPER / 2 };
N730_FN int field_bytes(int format) { return TILE * GROUP / 8 * format_bits(format); }
N730_FN int64_t tile_bytes(int format, int64_t cols) {
    const int64_t groups = groups_of(cols);
    if (format == FORMAT_F16 || format == FORMAT_BF16) return cols * TILE * 2;
    if (format_coded(format)) return (groups + SUPER - 1) / SUPER * SUPER_HEADER + groups * field_bytes(format);
    return groups * (TILE * 2 + field_bytes(format));
}
N730_FN void prefetch(const uint8_t *p, int bytes) {
    N730_UNROLL for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)(p + i), _MM_HINT_T0);
}

/* Rows of one tile to out, with the bias; the last tile may hold fewer than 16. */
N730_FN void store_rows(const n730_call *call, int64_t token, int64_t row, int64_t rows, f32x8 lo, f32x8 hi) {
    float *out = (float *)((char *)call->out + token * call->out_stride) + row;
    float v[TILE];
    int64_t left = rows - row;
    if (left >= TILE) {
        if (call->bias) {
            lo = f8_add(lo, f8_load_be(call->bias + 4 * row));
            hi = f8_add(hi, f8_load_be(call->bias + 4 * row + 32));
        }
        f8_store(out, lo);
        f8_store(out + 8, hi);
        return;
    }
    f8_store(v, lo);
    f8_store(v + 8, hi);
    for (int64_t i = 0; i < left; i++) out[i] = call->bias ? v[i] + load_f32_be(call->bias + 4 * (row + i)) : v[i];
}

/* The block of one group: its fields at w, the scales of its rows in ws; added to acc. */
N730_FN void group_int(int format, const uint8_t *w, const int8_t *const *x, int64_t g, int64_t groups, int n,
                       const f32x8 ws[2], f32x8 acc[][2]) {
    i32x8 s[N730_COLUMNS][2];
    const int8_t *q[N730_COLUMNS];
    N730_UNROLL for (int c = 0; c < n; c++) q[c] = x[c] + g * GROUP;
    dot(format, w, q, n, s);
    N730_UNROLL for (int c = 0; c < n; c++) {
        const int8_t *side = x[c] + groups * GROUP; /* f32 scales, then i32 sums, one of each a group */
        f32x8 xs = f8_set(load_f32(side + 4 * g));
        i32x8 less = i8_times(i8_set(load_i32(side + 4 * (groups + g))), format_offset(format));
        N730_UNROLL for (int h = 0; h < 2; h++) { /* Σ (times × t − offset)·x */
            if (format_times(format) == 2) s[c][h] = i8_add(s[c][h], s[c][h]);
            if (format_offset(format)) s[c][h] = i8_sub(s[c][h], less);
            acc[c][h] = f8_add(acc[c][h], f8_mul(i8_to_f8(s[c][h]), f8_mul(ws[h], xs)));
        }
    }
}

/* One tile × n columns of an integer format: tokens, or the halves of the tokens of a Q16 buffer one after the other. */
N730_FN void tile_int(const n730_call *call, int format, int64_t tile, int64_t column, int n, int64_t rows, int64_t cols) {
    const int64_t groups = groups_of(cols);
    const int bytes = field_bytes(format);
    const uint8_t *w = call->weight + tile * tile_bytes(format, cols);
    const int8_t *x[N730_COLUMNS];
    f32x8 acc[N730_COLUMNS][2];
    N730_UNROLL for (int c = 0; c < n; c++) {
        x[c] = (const int8_t *)call->in[0] + (column + c) * (call->in_stride[0] >> call->wide);
        acc[c][0] = acc[c][1] = f8_zero();
    }
    if (!format_coded(format)) {
        for (int64_t g = 0; g < groups; g++, w += TILE * 2 + bytes) {
            const f32x8 ws[2] = {f8_load_f16_be(w), f8_load_f16_be(w + 16)};
            prefetch(w + N730_AHEAD, TILE * 2 + bytes);
            group_int(format, w + TILE * 2, x, g, groups, n, ws, acc);
        }
    } else {
        for (int64_t first = 0; first < groups; first += SUPER) {
            const int64_t end = first + SUPER < groups ? first + SUPER : groups;
            const f32x8 unit = f8_set(CODE_UNIT);
            const f32x8 d[2] = {f8_mul(f8_load_f16_be(w), unit), f8_mul(f8_load_f16_be(w + 16), unit)};
            const uint8_t *codes = w + TILE * 2;
            prefetch(w + N730_AHEAD, SUPER_HEADER);
            w += SUPER_HEADER;
            for (int64_t pair = first; pair < end; pair += 2, codes += TILE) {
                f32x8 ws[2][2];
                f8_load_codes(codes, ws[0], ws[1]);
                N730_UNROLL for (int i = 0; i < 2; i++, w += bytes) {
                    if (i && pair + i == end) break; /* the last super-block of a row may end with an upper code */
                    ws[i][0] = f8_mul(ws[i][0], d[0]); /* exact */
                    ws[i][1] = f8_mul(ws[i][1], d[1]);
                    prefetch(w + N730_AHEAD, bytes);
                    group_int(format, w, x, pair + i, groups, n, ws[i], acc);
                }
            }
        }
    }
    if (call->wide) {
        N730_UNROLL for (int c = 0; c + 1 < n; c += 2)
            store_rows(call, (column + c) / 2, tile * TILE, rows, f8_add(acc[c][0], acc[c + 1][0]),
                       f8_add(acc[c][1], acc[c + 1][1]));
        return;
    }
    N730_UNROLL for (int c = 0; c < n; c++) store_rows(call, column + c, tile * TILE, rows, acc[c][0], acc[c][1]);
}

N730_FN f32x8 load_half_rows(int format, const uint8_t *p) {
    return format == FORMAT_F16 ? f8_load_f16_be(p) : f8_load_bf16_be(p);
}

/* One tile × n columns of F16 or BF16; from three tokens on the even columns of the tile first and then the odd ones, so
 * that the sums fit the registers. */
N730_FN void tile_half(const n730_call *call, int format, int64_t tile, int64_t token, int n, int64_t rows, int64_t cols) {
    const uint8_t *w = call->weight + tile * tile_bytes(format, cols);
    const float *x[N730_COLUMNS];
    f32x8 sum[N730_COLUMNS][2];
    const int step = n > 2 ? 1 : 2; /* of even and odd, in one pass */
    N730_UNROLL for (int c = 0; c < n; c++)
        x[c] = (const float *)((const char *)call->in[0] + (token + c) * call->in_stride[0]);
    N730_UNROLL for (int first = 0; first < 2; first += step) {
        f32x8 part[2][N730_COLUMNS][2];
        int64_t k = first;
        N730_UNROLL for (int i = 0; i < step; i++)
            N730_UNROLL for (int c = 0; c < n; c++) part[i][c][0] = part[i][c][1] = f8_zero();
        for (; k + step <= cols; k += 2) {
            if (first == 0) prefetch(w + 32 * k + N730_AHEAD, 64);
            f32x8 ws[2][2];
            N730_UNROLL for (int h = 0; h < 2; h++)
                N730_UNROLL for (int i = 0; i < step; i++) ws[i][h] = load_half_rows(format, w + 32 * (k + i) + 16 * h);
            N730_UNROLL for (int c = 0; c < n; c++)
                N730_UNROLL for (int h = 0; h < 2; h++)
                    N730_UNROLL for (int i = 0; i < step; i++)
                        part[i][c][h] = f8_add(part[i][c][h], f8_mul(ws[i][h], f8_set(x[c][k + i])));
        }
        N730_UNROLL for (int c = 0; c < n; c++)
            N730_UNROLL for (int h = 0; h < 2; h++) {
                if (step == 2 && k < cols)
                    part[0][c][h] = f8_add(part[0][c][h], f8_mul(load_half_rows(format, w + 32 * k + 16 * h), f8_set(x[c][k])));
                sum[c][h] = first ? f8_add(sum[c][h], part[0][c][h]) : part[0][c][h];
                if (step == 2) sum[c][h] = f8_add(sum[c][h], part[1][c][h]);
            }
    }
    N730_UNROLL for (int c = 0; c < n; c++) store_rows(call, token + c, tile * TILE, rows, sum[c][0], sum[c][1]);
}

N730_FN void tile_any(const n730_call *call, int format, int64_t tile, int64_t column, int n, int64_t rows, int64_t cols) {
    if (format == FORMAT_F16 || format == FORMAT_BF16)
        tile_half(call, format, tile, column, n, rows, cols);
    else
        tile_int(call, format, tile, column, n, rows, cols);
}

N730_FN void linear(const n730_call *call, int64_t begin, int64_t end, int format, int64_t rows, int64_t cols) {
    const int64_t columns = call->tokens << call->wide;
    for (int64_t tile = begin; tile < end; tile++) {
        int64_t t = 0;
        for (; t + 4 <= columns; t += 4) tile_any(call, format, tile, t, 4, rows, cols);
        if (t + 2 <= columns) {
            tile_any(call, format, tile, t, 2, rows, cols);
            t += 2;
        }
        if (t < columns) tile_any(call, format, tile, t, 1, rows, cols);
    }
}
#endif
