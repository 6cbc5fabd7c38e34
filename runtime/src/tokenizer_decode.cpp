#include "tokenizer_decode.h"

#include "tokenizer.h"

namespace n730 {
namespace {

// The byte that a token like <0x0A> stands for; -1: it is none.
int byte_of(std::string_view token) {
    if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
    int byte = 0;
    for (const char c : token.substr(3, 2)) {
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) return -1;
        byte = byte * 16 + digit;
    }
    return byte;
}

} // namespace

TokenStream::TokenStream(const Tokenizer &tokenizer, bool continues) : tables_(tokenizer.tables()), continues_(continues) {
    for (std::string *text : {&token_, &other_, &run_, &out_}) text->reserve(1024); // no allocation later, as a rule
    flush();
}

void TokenStream::substitute(std::string_view what, std::string_view by) {
    size_t at = token_.find(what);
    if (at == std::string::npos || token_.size() > kLongest) return;
    other_.clear();
    size_t done = 0;
    for (; at != std::string::npos; at = token_.find(what, done)) {
        other_.append(token_, done, at - done).append(by);
        done = at + what.size();
    }
    other_.append(token_, done, std::string::npos);
    token_.swap(other_);
}

bool TokenStream::apply(const TextStep &step) {
    const std::string_view what = tables_.text_at(step.x, step.a);
    switch (step.op) {
    case TextOp::SUBSTITUTE: substitute(what, tables_.text_at(step.x + step.a, step.b)); break;
    case TextOp::DROP_FIRST:
        if (first_) substitute(what, {});
        break;
    case TextOp::JOIN:
        if (first_) break;
        if (!what.empty() && token_.compare(0, what.size(), what) == 0)
            token_.erase(0, what.size());
        else
            token_.insert(0, 1, ' ');
        break;
    case TextOp::BYTES:
        if (const int byte = byte_of(token_); byte >= 0) {
            run_.push_back(static_cast<char>(byte));
            return false;
        }
        end_run();
        break;
    default: break;
    }
    return true;
}

// The bytes of a run are a text together, or each of them is a broken one.
void TokenStream::end_run() {
    if (utf8_valid_length(run_) == run_.size())
        put(run_);
    else
        for (size_t i = 0; i < run_.size(); i++) put("\xEF\xBF\xBD");
    run_.clear();
}

void TokenStream::put(std::string_view text) {
    while (trim_ > 0 && !text.empty()) {
        const bool found = text.substr(0, trimmed_.size()) == trimmed_;
        trim_ = found ? trim_ - 1 : 0;
        if (found) text.remove_prefix(trimmed_.size());
    }
    out_ += text;
}

std::string_view TokenStream::push(int32_t id) {
    const Table &program = tables_.decoder;
    token_ = static_cast<uint32_t>(id) < tables_.tokens ? tables_.token(static_cast<uint32_t>(id)) : std::string_view();
    out_.clear();
    if (token_.empty()) return {}; // no token: nothing comes to an end, and the next may still be the first
    bool text = true;
    for (uint32_t at = 0; text && at < program.size; at += TokenizerTables::kStep) text = apply(TextStep(program.data + at));
    if (text) put(token_);
    first_ = false;
    return utf8_.push(out_);
}

std::string_view TokenStream::flush() {
    out_.clear();
    end_run();
    other_ = utf8_.push(out_);
    other_ += utf8_.flush();
    first_ = !continues_;
    trim_ = 0;
    for (uint32_t at = 0; at < tables_.decoder.size; at += TokenizerTables::kStep) {
        const TextStep step(tables_.decoder.data + at);
        if (step.op != TextOp::TRIM || continues_) continue;
        trim_ = step.arg;
        trimmed_ = tables_.text_at(step.x, step.a);
    }
    return other_;
}

} // namespace n730
