// Runs a chat program: messages in, the text that the model is to see out.
#pragma once
#include "chat_builtins.h"

namespace n730::chat {

// What a program can take at most: a package is not to be trusted.
constexpr size_t MOST_OUTPUT = size_t{16} << 20; // bytes
constexpr size_t MOST_STACK = 4096, MOST_SCOPES = 256, MOST_CALLS = 64, MOST_LOOPS = 256;

// One rendering. Variables are set, then it is run once.
class Render {
  public:
    explicit Render(const Program &program) : program_(program) {}
    Memory &memory() { return memory_; }
    // A variable of the outermost scope; the value was made with memory(). What the program never asks for is dropped.
    void set(std::string_view name, const Value &value);
    // Throws Error naming the line of the template.
    std::string run();

  private:
    struct Binding {
        uint32_t name;
        Value value;
    };
    struct Frame { // of a macro: what its caller had, and what it must not touch
        uint32_t back;
        size_t stack, scopes, loops, captures;
    };

    void step(uint32_t word);
    Value pop();
    Value *top(uint32_t n); // the n topmost values
    void push(const Value &value);
    void replace(uint32_t n, const Value &value); // the n topmost values by one
    void open_scope();
    void close_scopes(size_t left);
    Value load(uint32_t name);
    void store(uint32_t name, const Value &value);
    void print(std::string_view text);
    void pairs(Kind kind, uint32_t n);
    void begin_loop();
    void next_item(uint32_t end);
    Loop &loop();
    void call(uint32_t macro);
    Value captured();
    bool leave(); // a macro; false: there is none

    const Program &program_;
    Memory memory_;
    std::string output_;
    std::vector<Value> stack_;
    std::vector<Binding> bindings_;
    std::vector<size_t> scopes_;   // first binding of each; the outermost has none of its own here
    std::vector<Value> loops_;     // under way
    std::vector<size_t> captures_; // where in the output each began
    std::vector<Frame> frames_;
    uint32_t at_ = 0, line_ = 0, loop_name_ = Program::NO_STRING;
    bool done_ = false;
};

} // namespace n730::chat
