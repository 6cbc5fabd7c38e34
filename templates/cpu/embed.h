/* EMBED: out[t] = row ids[t] of the weight matrix, dequantized. Work items: tokens.
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

/* The field of column j (0 … 31) of a block, for one row, as its integer value. */
N730_FN int32_t field_value(int format, const uint8_t *fields, int row, int j) {
    const int bits = format_bits(format), per_unit = 4 * 8 / bits; /* columns of one unit */
    uint8_t byte = fields[64 * (j / per_unit) + 4 * row + j % 4];
    int q = byte >> (8 - bits - bits * (j % per_unit / 4)) & ((1 << bits) - 1);
    return format == FORMAT_INT8 ? (int8_t)byte : format == FORMAT_INT4 ? q - 8 : 2 * q - 3;
}

N730_FN void embed(const n730_call *call, int64_t begin, int64_t end, int format) {
    for (int64_t token = begin; token < end; token++) {
        float *out = (float *)((char *)call->out + token * call->out_stride);
        int64_t id = call->ids[token];
        const int known = id >= 0 && id < call->rows;
        const int row = (int)(id & (TILE - 1));
        const uint8_t *w = call->weight + (known ? id / TILE : 0) * tile_bytes(format, call->cols);
        for (int64_t k = 0; k < call->cols; k++) {
            float value = 0.0f;
            if (known && (format == FORMAT_F16 || format == FORMAT_BF16)) {
                value = half_value(format, w + 32 * k + 2 * row);
            } else if (known) {
                const uint8_t *block = w + k / GROUP * (TILE * 2 + TILE * GROUP / 8 * format_bits(format));
                value = half_value(FORMAT_F16, block + 2 * row) * (float)field_value(format, block + 32, row, (int)(k % GROUP));
            }
            out[k] = value;
        }
    }
}
#endif
