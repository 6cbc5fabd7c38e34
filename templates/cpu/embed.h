/* EMBED: out[t] = row ids[t] of the weight matrix, dequantized; without ids, the row of t's position. Work items: tokens.
 * An id outside the matrix gives a row of zeros: nothing outside the tensor is ever read. */
#ifndef N730_EMBED_H
#define N730_EMBED_H
#include "linear.h"

N730_FN float half_value(int format, const uint8_t *p) {
    uint8_t bytes[16] = {p[0], p[1], 0};
    float v[8];
    f8_store(v, format == FORMAT_BF16 ? f8_load_bf16_be(bytes) : f8_load_f16_be(bytes));
    return v[0];
}

/* Column j (0 … 31) of one plane of a block, for one row. */
N730_FN int plane_value(const uint8_t *w, int bits, int row, int j) {
    const int count = 8 / bits, q = j / 4; /* fields in a byte; quad */
    return w[64 * (q / count) + 4 * row + j % 4] >> (8 - bits - bits * (q % count)) & ((1 << bits) - 1);
}
/* The level of column j of a block, for one row. */
N730_FN int32_t level_value(int format, const uint8_t *w, int row, int j) {
    const int first = first_plane(format), second = second_plane(format);
    int q = plane_value(w, first, row, j);
    if (second) q = q << second | plane_value(w + TILE * GROUP / 8 * first, second, row, j);
    if (format == FORMAT_INT8) return (int8_t)q;
    return format_times(format) * (format_uneven(format) ? level_table(format)[q] : q) - format_offset(format);
}
/* The scale of group g for one row of the tile at w, and in *fields where the fields of that block are. */
N730_FN float block_scale(int format, const uint8_t *w, int row, int64_t g, const uint8_t **fields) {
    const int bytes = field_bytes(format);
    if (!format_coded(format)) {
        w += g * (TILE * 2 + bytes);
        *fields = w + TILE * 2;
        return half_value(FORMAT_F16, w + 2 * row);
    }
    w += g / SUPER * (SUPER_HEADER + SUPER * bytes);
    *fields = w + SUPER_HEADER + g % SUPER * bytes;
    return half_value(FORMAT_F16, w + 2 * row) * CODE_UNIT *
           (float)(w[TILE * 2 + g % SUPER / 2 * TILE + row] >> (g % 2 ? 0 : 4) & 15);
}

N730_FN void embed(const n730_call *call, int64_t begin, int64_t end, int format) {
    for (int64_t token = begin; token < end; token++) {
        float *out = (float *)((char *)call->out + token * call->out_stride);
        const int64_t id = call->ids ? call->ids[token] : call->position + token;
        const int known = id >= 0 && id < call->rows;
        const int row = (int)(id & (TILE - 1));
        const uint8_t *w = call->weight + (known ? id / TILE : 0) * tile_bytes(format, call->cols);
        for (int64_t k = 0; k < call->cols; k++) {
            float value = 0.0f;
            if (known && (format == FORMAT_F16 || format == FORMAT_BF16)) {
                value = half_value(format, w + 32 * k + 2 * row);
            } else if (known) {
                const uint8_t *fields;
                float scale = block_scale(format, w, row, k / GROUP, &fields);
                value = scale * (float)level_value(format, fields, row, (int)(k % GROUP));
            }
            out[k] = value;
        }
    }
}
#endif
