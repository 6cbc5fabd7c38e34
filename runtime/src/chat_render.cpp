#include "chat_render.h"
#include "error.h"

#include <algorithm>

namespace n730::chat {

namespace {
[[noreturn]] void damaged() { throw Failure{"its program is damaged"}; }
} // namespace

void Render::set(std::string_view name, const Value &value) {
    const uint32_t index = program_.find(name);
    if (index != Program::NO_STRING) store(index, value);
}

Value *Render::top(uint32_t n) {
    const size_t floor = frames_.empty() ? 0 : frames_.back().stack;
    if (stack_.size() - floor < n) damaged();
    return stack_.data() + stack_.size() - n;
}

Value Render::pop() {
    const Value value = *top(1);
    stack_.pop_back();
    return value;
}

void Render::push(const Value &value) {
    if (stack_.size() >= MOST_STACK) throw Failure{"its expressions are nested too deep"};
    stack_.push_back(value);
}

void Render::replace(uint32_t n, const Value &value) {
    const Value kept = value; // may be one of those that go
    stack_.resize(stack_.size() - n);
    push(kept);
}

void Render::open_scope() {
    if (scopes_.size() >= MOST_SCOPES) throw Failure{"its blocks are nested too deep"};
    scopes_.push_back(bindings_.size());
}

void Render::close_scopes(size_t left) {
    if (left >= scopes_.size()) return;
    bindings_.resize(scopes_[left]);
    scopes_.resize(left);
}

// From the innermost scope outwards; a macro sees its own and the outermost, not its caller's.
Value Render::load(uint32_t name) {
    memory_.work(bindings_.size() / 8);
    const size_t own = frames_.empty() ? 0 : scopes_[frames_.back().scopes];
    for (size_t i = bindings_.size(); i > own; --i)
        if (bindings_[i - 1].name == name) return bindings_[i - 1].value;
    const size_t outermost = scopes_.empty() ? 0 : std::min(own, scopes_[0]);
    for (size_t i = outermost; i > 0; --i)
        if (bindings_[i - 1].name == name) return bindings_[i - 1].value;
    return undefined(program_.string(name));
}

void Render::store(uint32_t name, const Value &value) {
    memory_.work(bindings_.size() / 8);
    for (size_t i = scopes_.empty() ? 0 : scopes_.back(); i < bindings_.size(); ++i)
        if (bindings_[i].name == name) {
            bindings_[i].value = value;
            return;
        }
    bindings_.push_back({name, value});
}

void Render::print(std::string_view text) {
    memory_.work_on_bytes(text.size());
    if (text.size() > MOST_OUTPUT - output_.size()) throw Failure{"its text is longer than 16 MiB"};
    output_ += text;
}

void Render::pairs(Kind kind, uint32_t n) {
    const Value *values = top(2 * n);
    Value made = memory_.mapping(kind, n);
    for (uint32_t i = 0; i < n; ++i) {
        if (!values[2 * i].is_text()) throw Failure{std::string("a mapping by ") + kind_name(values[2 * i])};
        memory_.set(made, values[2 * i].view(), values[2 * i + 1]);
    }
    replace(2 * n, made);
}

Loop &Render::loop() {
    if (loops_.size() <= (frames_.empty() ? 0 : frames_.back().loops)) damaged();
    return *loops_.back().loop;
}

void Render::begin_loop() {
    if (loops_.size() >= MOST_LOOPS) throw Failure{"its loops are nested too deep"};
    const Value items = elements(memory_, *top(1));
    stack_.pop_back();
    loops_.push_back(memory_.loop(items.list, static_cast<uint32_t>(scopes_.size())));
}

void Render::next_item(uint32_t end) {
    Loop &now = loop();
    close_scopes(now.scopes);
    if (now.next >= now.items->size) {
        at_ = end;
        return;
    }
    open_scope();
    store(loop_name_, loops_.back());
    push(now.items->items[now.next++]);
}

// The operands stay where they are and become the macro's own stack.
void Render::call(uint32_t macro) {
    if (frames_.size() >= MOST_CALLS) throw Failure{"its macros call each other too deep"};
    const uint32_t n = program_.parameters(macro);
    top(n);
    frames_.push_back({at_, stack_.size() - n, scopes_.size(), loops_.size(), captures_.size()});
    captures_.push_back(output_.size());
    open_scope();
    at_ = program_.entry(macro);
}

Value Render::captured() {
    const Value text = memory_.text(std::string_view(output_).substr(captures_.back()));
    output_.resize(captures_.back());
    captures_.pop_back();
    return text;
}

bool Render::leave() {
    if (frames_.empty()) return false;
    const Frame frame = frames_.back();
    captures_.resize(frame.captures + 1);
    const Value text = captured();
    frames_.pop_back();
    close_scopes(frame.scopes);
    stack_.resize(frame.stack);
    loops_.resize(frame.loops);
    at_ = frame.back;
    push(text);
    return true;
}

void Render::step(uint32_t word) {
    const uint32_t operand = word & 0xFFFFFF;
    const size_t own_scopes = frames_.empty() ? 0 : frames_.back().scopes + 1;
    switch (Op(word >> 24)) {
    case Op::END: done_ = true; break;
    case Op::LINE: line_ = operand; break;
    case Op::TEXT: print(program_.string(operand)); break;
    case Op::PRINT: print(to_text(memory_, pop())); break;
    case Op::STRING: push(Memory::share(program_.string(operand))); break;
    case Op::INTEGER: push(integer(int64_t(operand) - INTEGER_BIAS)); break;
    case Op::VALUE: {
        Value value = operand == uint32_t(Constant::NONE)     ? none()
                      : operand == uint32_t(Constant::FALSE_) ? boolean(false)
                      : operand == uint32_t(Constant::TRUE_)  ? boolean(true)
                                                              : undefined();
        if (operand == uint32_t(Constant::MISSING)) value.kind = Kind::MISSING;
        push(value);
        break;
    }
    case Op::LOAD: push(load(operand)); break;
    case Op::STORE: store(operand, pop()); break;
    case Op::SET_ATTR: {
        Value *const values = top(2);
        if (values[1].kind != Kind::NAMESPACE) throw Failure{"an attribute can be set of a namespace only"};
        memory_.set(values[1], program_.string(operand), values[0]);
        stack_.resize(stack_.size() - 2);
        break;
    }
    case Op::ATTR: replace(1, attribute(*top(1), program_.string(operand), memory_)); break;
    case Op::ITEM: replace(2, item(memory_, top(2)[0], top(2)[1])); break;
    case Op::SLICE: replace(4, slice(memory_, top(4)[0], top(4) + 1)); break;
    case Op::LIST: {
        const Value *values = top(operand);
        Value list = memory_.list(operand);
        for (uint32_t i = 0; i < operand; ++i) memory_.append(list, values[i]);
        replace(operand, list);
        break;
    }
    case Op::MAPPING: pairs(Kind::MAPPING, operand); break;
    case Op::NAMESPACE: pairs(Kind::NAMESPACE, operand); break;
    case Op::UNPACK: {
        const Value items = elements(memory_, *top(1));
        if (items.list->size != operand)
            throw Failure{"it takes " + std::to_string(operand) + " values from a list of " +
                          std::to_string(items.list->size)};
        memory_.work(operand);
        stack_.pop_back();
        for (uint32_t i = operand; i > 0; --i) push(items.list->items[i - 1]);
        break;
    }
    case Op::APPEND: {
        Value *const values = top(2);
        if (values[0].kind != Kind::LIST) damaged();
        memory_.append(values[0], values[1]);
        stack_.pop_back();
        break;
    }
    case Op::DUP: push(Value(*top(1))); break;
    case Op::DROP: pop(); break;
    case Op::NOT: replace(1, boolean(!truth(*top(1)))); break;
    case Op::NEGATE: replace(1, compute(memory_, Binary::SUB, integer(0), *top(1))); break;
    case Op::BINARY: replace(2, compute(memory_, Binary(operand), top(2)[0], top(2)[1])); break;
    case Op::CONCAT: replace(operand, concatenate(memory_, top(operand), operand)); break;
    case Op::COMPARE: replace(2, boolean(compare(memory_, Compare(operand), top(2)[0], top(2)[1]))); break;
    case Op::JUMP: at_ = operand; break;
    case Op::JUMP_FALSE:
        if (!truth(pop())) at_ = operand;
        break;
    case Op::AND:
    case Op::OR:
        if (truth(*top(1)) == (Op(word >> 24) == Op::OR))
            at_ = operand;
        else
            stack_.pop_back();
        break;
    case Op::FOR: begin_loop(); break;
    case Op::NEXT: next_item(operand); break;
    case Op::FOR_ELSE:
        if (loop().done) at_ = operand;
        break;
    case Op::FOR_END:
        close_scopes(loop().scopes);
        loops_.pop_back();
        break;
    case Op::SCOPE: open_scope(); break;
    case Op::END_SCOPE:
        if (scopes_.size() <= own_scopes) damaged();
        close_scopes(scopes_.size() - 1);
        break;
    case Op::CAPTURE:
        if (captures_.size() >= MOST_SCOPES) throw Failure{"its blocks are nested too deep"};
        captures_.push_back(output_.size());
        break;
    case Op::CAPTURED:
        if (captures_.size() <= (frames_.empty() ? 0 : frames_.back().captures + 1)) damaged();
        push(captured());
        break;
    case Op::CALL: call(operand); break;
    case Op::RETURN:
        if (!leave()) damaged();
        break;
    case Op::GIVEN:
        if (pop().kind != Kind::MISSING) at_ = operand;
        break;
    case Op::BUILTIN: {
        const uint32_t n = operand & 255;
        replace(n, call_builtin(memory_, Builtin(operand >> 8), top(n), n));
        break;
    }
    case Op::FOR_DONE: loop().done = true; break;
    case Op::COUNT: damaged();
    }
}

std::string Render::run() {
    loop_name_ = program_.find("loop");
    try {
        while (!done_) {
            memory_.work(1);
            step(program_.instruction(at_++));
        }
    } catch (const Failure &failure) {
        throw Error("the chat template stops in line " + std::to_string(line_) + ": " + failure.what);
    }
    return std::move(output_);
}

} // namespace n730::chat
