// BUFFERS, CACHES, STEPS, PROGRAM: what is computed. After these checks no step can reach outside its operands.
#include "package.h"

#include <cmath>

namespace n730 {

namespace {

constexpr uint32_t MAX_DIM = 1u << 24;

std::string str(int64_t n) { return std::to_string(n); }

struct Operands {
    const char *name;
    int inputs;
    bool out;
    enum { NO, MATRIX, VECTOR } weight;
    bool bias; // may be there
    int ints, floats;
};

// By op; the table of FORMAT.md section 2.
constexpr Operands OPERANDS[] = {
    {"", 0, false, Operands::NO, false, 0, 0},
    {"EMBED", 0, true, Operands::MATRIX, false, 1, 0},
    {"RMS_NORM", 1, true, Operands::VECTOR, false, 0, 1},
    {"QUANTIZE", 1, true, Operands::NO, false, 0, 0},
    {"LINEAR", 1, true, Operands::MATRIX, true, 1, 0},
    {"ROPE_TABLE", 0, true, Operands::VECTOR, false, 0, 1},
    {"ROPE", 2, true, Operands::NO, false, 4, 0},
    {"KV_STORE", 2, false, Operands::NO, false, 1, 0},
    {"ATTENTION", 1, true, Operands::NO, false, 2, 2},
    {"SILU_MUL", 2, true, Operands::NO, false, 0, 0},
    {"ADD", 2, true, Operands::NO, false, 0, 0},
    {"MUL", 2, true, Operands::NO, false, 0, 0},
    {"SILU", 1, true, Operands::NO, false, 0, 0},
    {"ROUTE", 1, true, Operands::NO, false, 2, 0},
    {"ZERO", 0, true, Operands::NO, false, 0, 0},
    {"EXPERT", 2, true, Operands::NO, false, 2, 0},
    {"COMBINE", 2, true, Operands::NO, false, 1, 0},
    {"GATE", 2, true, Operands::NO, false, 0, 0},
    {"UNARY", 1, true, Operands::NO, false, 1, 1},
    {"LAYER_NORM", 1, true, Operands::VECTOR, true, 0, 1},
};
constexpr uint16_t LAST_OP = static_cast<uint16_t>(Op::LAYER_NORM);

// Ops that compute the tokens of one expert, between EXPERT and COMBINE.
bool in_group(Op op) {
    return op == Op::QUANTIZE || op == Op::LINEAR || op == Op::SILU_MUL || op == Op::ADD || op == Op::MUL ||
           op == Op::SILU;
}

// The steps of one expert: what is written there is gone behind them.
struct Group {
    size_t first = 0, end = 0; // the EXPERT step, and the one behind the COMBINE
    std::vector<bool> written; // buffers, before it
};

// The row of out that a LINEAR step's next block has to begin with; 0: there is none.
int64_t block_end(const Package &package, const Step &s) {
    if (s.op != Op::LINEAR) return 0;
    const int64_t end = s.p[0] + int64_t(package.tensors[s.weight].rows);
    return end < package.buffers[s.out].width ? end : 0;
}

// Checks one step against the tables and against the steps before it.
class StepCheck {
  public:
    StepCheck(Package &package, const uint8_t *record, size_t index, std::vector<bool> &written,
              std::vector<bool> &stored, Group &group)
        : package_(package), r_(record), index_(index), written_(written), stored_(stored), group_(group),
          head_(index >= package.program.head_first) {}

    void run() {
        const uint16_t op = be16(r_);
        need(op >= 1 && op <= LAST_OP, "op", "1 to " + str(LAST_OP), op);
        operands_ = &OPERANDS[op];
        s_ = decode();
        check_unused();
        check_scopes();
        check_shapes();
        check_block();
        check_group();
        if (operands_->out) written_[s_.out] = true;
        package_.steps.push_back(s_);
        if (s_.op == Op::COMBINE) std::swap(written_, group_.written);
    }

  private:
    void need(bool good, const char *what, const std::string &expected, int64_t found) const {
        if (good) return;
        const std::string name = operands_ ? std::string(" (") + operands_->name + ")" : "";
        throw PackageError("E_STEP", "step " + str(int64_t(index_)) + name + ": " + what, expected, str(found));
    }

    Step decode() const {
        Step s{Op(be16(r_)), be32(r_ + 4), be32(r_ + 8), {}, be32(r_ + 24), be32(r_ + 28), be32(r_ + 32), {}, {}};
        for (int i = 0; i < 3; ++i) s.in[i] = be32(r_ + 12 + 4 * i);
        for (int i = 0; i < 6; ++i) s.p[i] = static_cast<int32_t>(be32(r_ + 36 + 4 * i));
        for (int i = 0; i < 4; ++i) s.f[i] = be_f32(r_ + 60 + 4 * i);
        return s;
    }

    void check_unused() const {
        need(be16(r_ + 2) == 0 && all_zero(r_ + 76, 20), "reserved bytes", "zeros", 1);
        need(s_.kernel == NONE || s_.kernel < package_.sections[KERNELS].size / 32, "kernel", "one of KERNELS",
             s_.kernel);
        for (int i = 0; i < 3; ++i) {
            if (i < operands_->inputs) need(s_.in[i] < package_.buffers.size(), "input", "a buffer", s_.in[i]);
            else need(s_.in[i] == NONE, "unused input", "none", s_.in[i]);
        }
        if (operands_->out) need(s_.out < package_.buffers.size(), "output", "a buffer", s_.out);
        else need(s_.out == NONE, "unused output", "none", s_.out);
        if (operands_->weight != Operands::NO)
            need(s_.weight < package_.tensors.size(), "weight", "a tensor", s_.weight);
        else need(s_.weight == NONE, "unused weight", "none", s_.weight);
        need(s_.bias == NONE || (operands_->bias && s_.bias < package_.tensors.size()), "bias",
             operands_->bias ? "a tensor or none" : "none", s_.bias);
        for (int i = operands_->ints; i < 6; ++i) need(s_.p[i] == 0, "unused number", "0", s_.p[i]);
        for (int i = 0; i < operands_->floats; ++i)
            need(std::isfinite(s_.f[i]), "float", "finite", be32(r_ + 60 + 4 * i));
        need(all_zero(r_ + 60 + 4 * operands_->floats, 4 * (4 - size_t(operands_->floats))), "unused float",
             "zero bits", 1);
    }

    void check_scopes() const {
        if (head_)
            need(s_.op != Op::EMBED && s_.op != Op::ROPE_TABLE && s_.op != Op::ROPE && s_.op != Op::KV_STORE &&
                     s_.op != Op::ATTENTION && (s_.op < Op::ROUTE || s_.op > Op::GATE),
                 "op after head_first", "one without positions", int64_t(s_.op));
        for (int i = 0; i < operands_->inputs; ++i) {
            need(head_ || in(i).scope == Scope::BODY, "scope of an input", "body", int64_t(in(i).scope));
            need(written_[s_.in[i]], "input", "a buffer that an earlier step wrote", s_.in[i]);
        }
        if (operands_->out)
            need((out().scope == Scope::HEAD) == head_, "scope of the output", head_ ? "head" : "body",
                 int64_t(out().scope));
    }

    const Buffer &in(int i) const { return package_.buffers[s_.in[i]]; }
    const Buffer &out() const { return package_.buffers[s_.out]; }
    const Tensor &weight() const { return package_.tensors[s_.weight]; }

    static BufferKind rounded(const Buffer &b) { return b.kind == BufferKind::Q16 ? b.kind : BufferKind::Q8; }
    void input(int i, BufferKind kind, int64_t width) const {
        need(in(i).kind == kind, "kind of an input", kind == BufferKind::F32 ? "f32" : "q8 or q16", int64_t(in(i).kind));
        need(in(i).width == width, "width of an input", str(width), in(i).width);
    }
    void output(BufferKind kind, int64_t width) const {
        need(out().kind == kind, "kind of the output", kind == BufferKind::F32 ? "f32" : "q8 or q16", int64_t(out().kind));
        need(out().width == width, "width of the output", str(width), out().width);
    }
    void vector(uint32_t id, int64_t width, const char *what) const {
        const Tensor &t = package_.tensors[id];
        need(t.layout == Layout::VECTOR, what, "a vector", id);
        need(t.cols == width, what, str(width) + " elements", t.cols);
    }
    const Cache &cache() const {
        need(s_.p[0] >= 0 && size_t(s_.p[0]) < package_.caches.size(), "cache", "one of CACHES", s_.p[0]);
        return package_.caches[size_t(s_.p[0])];
    }
    void apart(int i) const { need(s_.out != s_.in[i], "output", "not an input", s_.out); }

    void check_shapes() {
        if (operands_->weight == Operands::MATRIX)
            need(weight().layout == Layout::MATRIX, "weight", "a matrix", s_.weight);
        if (operands_->weight == Operands::VECTOR)
            need(weight().layout == Layout::VECTOR, "weight", "a vector", s_.weight);
        constexpr BufferKind F32 = BufferKind::F32;
        switch (s_.op) {
        case Op::EMBED:
            need(s_.p[0] == 0 || s_.p[0] == 1, "what is looked up", "0 (ids) or 1 (positions)", s_.p[0]);
            if (s_.p[0] == 0)
                need(weight().rows == package_.program.vocab, "rows of the weight", str(package_.program.vocab),
                     weight().rows);
            output(F32, weight().cols);
            break;
        case Op::RMS_NORM:
        case Op::LAYER_NORM:
            need(s_.f[0] > 0, "epsilon", "above 0", be32(r_ + 60));
            input(0, F32, in(0).width), output(F32, in(0).width);
            need(in(0).width % weight().cols == 0, "width of the weight", "a divisor of " + str(in(0).width),
                 weight().cols);
            if (s_.bias != NONE) vector(s_.bias, weight().cols, "bias");
            apart(0);
            break;
        case Op::QUANTIZE:
            input(0, F32, in(0).width), output(rounded(out()), in(0).width);
            break;
        case Op::LINEAR: {
            const bool plain = weight().format == Format::F16 || weight().format == Format::BF16;
            input(0, plain ? F32 : rounded(in(0)), weight().cols), output(F32, out().width);
            need(s_.p[0] >= 0 && s_.p[0] % TILE_ROWS == 0 && s_.p[0] + int64_t(weight().rows) <= out().width,
                 "first row", "a multiple of 16 with room in " + str(out().width), s_.p[0]);
            if (s_.bias != NONE) vector(s_.bias, weight().rows, "bias");
            apart(0);
            break;
        }
        case Op::ROPE_TABLE:
            output(F32, int64_t(weight().cols) * 2);
            break;
        case Op::ROPE: {
            const int64_t heads = s_.p[0], head_dim = s_.p[1], rotary = s_.p[2];
            need(heads >= 1, "heads", "at least 1", heads);
            need(head_dim >= 1, "head_dim", "at least 1", head_dim);
            need(rotary >= 2 && rotary % 2 == 0 && rotary <= head_dim, "rotary_dim", "even, 2 to head_dim", rotary);
            need(s_.p[3] == 0 || s_.p[3] == 1, "pairing", "0 (halves) or 1 (pairs)", s_.p[3]);
            input(0, F32, heads * head_dim), input(1, F32, rotary), output(F32, heads * head_dim);
            apart(1);
            break;
        }
        case Op::KV_STORE: {
            const int64_t width = int64_t(cache().kv_heads) * cache().head_dim;
            input(0, F32, width), input(1, F32, width);
            stored_[size_t(s_.p[0])] = true;
            break;
        }
        case Op::ATTENTION: {
            const int64_t heads = s_.p[1], width = heads * cache().head_dim;
            need(heads >= 1 && heads % cache().kv_heads == 0, "heads", "a multiple of kv_heads", heads);
            need(s_.f[1] >= 0, "cap of the scores", "at least 0", be32(r_ + 64));
            need(stored_[size_t(s_.p[0])], "cache", "one that an earlier KV_STORE wrote", s_.p[0]);
            input(0, F32, width), output(F32, width);
            apart(0);
            break;
        }
        case Op::SILU_MUL:
        case Op::ADD:
        case Op::MUL:
            input(0, F32, in(0).width), input(1, F32, in(0).width), output(F32, in(0).width);
            break;
        case Op::SILU:
            input(0, F32, in(0).width), output(F32, in(0).width);
            break;
        case Op::ROUTE:
            input(0, F32, in(0).width), output(F32, in(0).width);
            need(s_.p[0] >= 1 && uint32_t(s_.p[0]) <= in(0).width, "experts a token", "1 to all", s_.p[0]);
            need(s_.p[1] == 0 || s_.p[1] == 1, "normalized", "0 or 1", s_.p[1]);
            apart(0);
            break;
        case Op::ZERO:
            output(F32, out().width);
            break;
        case Op::EXPERT:
        case Op::COMBINE:
            input(0, s_.op == Op::EXPERT ? in(0).kind : F32, in(0).width), output(in(0).kind, in(0).width);
            input(1, F32, in(1).width);
            need(s_.p[0] >= 0 && uint32_t(s_.p[0]) < in(1).width, "expert", "a column of the gates", s_.p[0]);
            apart(0), apart(1);
            break;
        case Op::GATE:
            input(0, F32, in(0).width), input(1, F32, 1), output(F32, in(0).width);
            if (s_.out != s_.in[0]) apart(1);
            break;
        case Op::UNARY:
            need(s_.p[0] >= 1 && s_.p[0] <= 6, "function", "1 to 6", s_.p[0]);
            need(s_.p[0] >= 5 || all_zero(r_ + 60, 4), "unused float", "zero bits", 1);
            need(s_.p[0] != 6 || s_.f[0] > 0, "cap", "above 0", be32(r_ + 60));
            input(0, F32, in(0).width), output(F32, in(0).width);
            break;
        }
    }

    // EXPERT, what its tokens go through, and COMBINE, which adds it to a buffer that was there before.
    void check_group() {
        const bool inside = index_ < group_.end;
        if (s_.op == Op::EXPERT) {
            need(!inside, "place", "behind the COMBINE of the expert before", int64_t(index_));
            need(s_.p[1] >= 2 && uint64_t(s_.p[1]) < package_.program.head_first - uint64_t(index_), "steps",
                 "2 or more, all in the body", s_.p[1]);
            group_.first = index_;
            group_.end = index_ + 1 + static_cast<size_t>(s_.p[1]);
            group_.written = written_;
            return;
        }
        need((s_.op == Op::COMBINE) == (inside && index_ + 1 == group_.end), "place of COMBINE",
             "behind the last step of an expert, and there only", int64_t(index_));
        if (!inside) return;
        const Step &expert = package_.steps[group_.first];
        need(s_.out != expert.in[1], "output", "not the gates", s_.out);
        if (s_.op == Op::COMBINE) {
            need(s_.in[1] == expert.in[1] && s_.p[0] == expert.p[0], "gates and expert", "those of EXPERT", s_.p[0]);
            need(group_.written[s_.out], "output", "a buffer that was written before EXPERT", s_.out);
            return;
        }
        need(in_group(s_.op), "op of an expert", "QUANTIZE, LINEAR or an elementwise one", int64_t(s_.op));
    }

    // Blocks of rows of one matrix follow each other at once, on one side of head_first, and fill their output.
    void check_block() const {
        const Step *before = package_.steps.empty() ? nullptr : &package_.steps.back();
        const int64_t end = before != nullptr ? block_end(package_, *before) : 0; // 0: nothing is left of it
        const bool block = s_.op == Op::LINEAR && s_.p[0] > 0;
        const bool goes_on = end > 0 && index_ != package_.program.head_first && block && s_.p[0] == end &&
                             s_.in[0] == before->in[0] && s_.out == before->out;
        need(goes_on || end == 0, "rows of the step before", "the next block of them", end);
        need(goes_on || !block, "first row", "where the block before ends", s_.p[0]);
    }

    Package &package_;
    const uint8_t *r_;
    const size_t index_;
    std::vector<bool> &written_; // buffers
    std::vector<bool> &stored_;  // caches
    Group &group_;
    const bool head_;
    const Operands *operands_ = nullptr;
    Step s_{};
};

void read_buffers(Package &package) {
    each_record(package, BUFFERS, 16, [&](const uint8_t *r, size_t i) {
        const auto bad = [&](const char *what, const char *expected, uint32_t found) {
            throw PackageError("E_BUFFER", "buffer " + str(int64_t(i)) + ": " + what, expected, str(found));
        };
        const uint32_t width = be32(r + 4);
        if (r[0] > 2) bad("kind", "0 to 2", r[0]);
        if (r[1] > 1) bad("scope", "0 or 1", r[1]);
        if (width < 1 || width > MAX_DIM) bad("width", "1 to 2^24", width);
        if (!all_zero(r + 2, 2) || !all_zero(r + 8, 8)) bad("reserved bytes", "zeros", 1);
        package.buffers.push_back({BufferKind(r[0]), Scope(r[1]), width});
    });
    each_record(package, CACHES, 16, [&](const uint8_t *r, size_t i) {
        const auto bad = [&](const char *what, const char *expected, uint32_t found) {
            throw PackageError("E_CACHE", "cache " + str(int64_t(i)) + ": " + what, expected, str(found));
        };
        const Cache c{be32(r), be32(r + 4), be32(r + 8), Format(r[12])};
        if (c.kv_heads < 1 || c.kv_heads > 65536) bad("kv_heads", "1 to 65536", c.kv_heads);
        if (c.head_dim < 1 || c.head_dim > 1024 || c.head_dim % 8 != 0)
            bad("head_dim", "8 to 1024, a multiple of 8", c.head_dim);
        if (c.window > MAX_DIM) bad("window", "at most 2^24", c.window);
        if (c.format != Format::F32 && c.format != Format::F16 && c.format != Format::INT8)
            bad("format", "0 (f32), 1 (f16) or 3 (int8)", r[12]);
        if (!all_zero(r + 13, 3)) bad("reserved bytes", "zeros", 1);
        package.caches.push_back(c);
    });
}

void check_program(const Package &package, const uint8_t *r) {
    const auto need = [](bool good, const char *what, const std::string &expected, uint32_t found) {
        if (!good) throw PackageError("E_PROGRAM", std::string("program: ") + what, expected, str(found));
    };
    const Program &p = package.program;
    need(p.head_first >= 1 && p.head_first < package.steps.size(), "head_first", "1 to the number of steps − 1",
         p.head_first);
    need(p.vocab >= 1 && p.vocab <= MAX_DIM, "vocab", "1 to 2^24", p.vocab);
    need(p.logits < package.buffers.size(), "logits buffer", "a buffer", p.logits);
    const Buffer &logits = package.buffers[p.logits];
    need(logits.kind == BufferKind::F32 && logits.scope == Scope::HEAD, "logits buffer", "f32 of the head", p.logits);
    need(logits.width == p.vocab, "width of the logits", str(p.vocab), logits.width);
    bool written = false;
    for (const Step &s : package.steps) written = written || s.out == p.logits;
    need(written, "logits buffer", "written by a step", p.logits);
    need(all_zero(r + 12, 20), "reserved bytes", "zeros", 1);
}

} // namespace

void read_program(Package &package) {
    read_buffers(package);
    // The steps are checked with PROGRAM's numbers as they stand, and these after them.
    const std::vector<uint8_t> program = read_section(package, PROGRAM);
    package.program = {be32(program.data()), be32(program.data() + 4), be32(program.data() + 8)};
    std::vector<bool> written(package.buffers.size()), stored(package.caches.size());
    Group group;
    package.steps.reserve(package.sections[STEPS].size / 96);
    each_record(package, STEPS, 96,
                [&](const uint8_t *r, size_t i) { StepCheck(package, r, i, written, stored, group).run(); });
    if (block_end(package, package.steps.back()) != 0)
        throw PackageError("E_STEP", "the last step", "all rows of its output", "a block of them");
    check_program(package, program.data());
}

} // namespace n730
