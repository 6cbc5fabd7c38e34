// Chat programs that a compiler would never write, the editor's keys, and stop texts.
#include "chat_render.h"
#include "error.h"
#include "line_editor.h"
#include "stop_text.h"
#include "text_width.h"

#include <doctest/doctest.h>

using namespace n730;
using chat::Op;

namespace {

void put32(std::vector<uint8_t> &out, uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(value >> shift));
}

using Code = std::vector<std::pair<Op, uint32_t>>;

std::vector<uint8_t> section(const Code &code, const std::vector<std::string> &strings, bool macro = false) {
    std::vector<uint8_t> out;
    for (const size_t n : {size_t(1), code.size(), strings.size(), size_t(macro)}) put32(out, static_cast<uint32_t>(n));
    for (const auto &[op, operand] : code) put32(out, uint32_t(op) << 24 | operand);
    if (macro) put32(out, 0), put32(out, 0);
    uint32_t at = 0;
    put32(out, at);
    for (const std::string &text : strings) put32(out, at += static_cast<uint32_t>(text.size()));
    for (const std::string &text : strings) out.insert(out.end(), text.begin(), text.end());
    return out;
}

std::string run(const Code &code, const std::vector<std::string> &strings = {}, bool macro = false) {
    const std::vector<uint8_t> bytes = section(code, strings, macro);
    std::string why;
    REQUIRE(chat::validate(bytes.data(), bytes.size(), why));
    const chat::Program program(bytes);
    chat::Render render(program);
    try {
        return render.run();
    } catch (const Error &error) {
        return error.what();
    }
}

constexpr uint32_t tojson = uint32_t(chat::Builtin::TOJSON) << 8 | 1, cycle = uint32_t(chat::Builtin::CYCLE) << 8 | 2;

} // namespace

TEST_CASE("a program's stack, scopes, loops and captures are its own") {
    const std::string damaged = "the chat template stops in line 0: its program is damaged.";
    for (const Op op : {Op::PRINT, Op::STORE, Op::ITEM, Op::SLICE, Op::APPEND, Op::DUP, Op::DROP, Op::NOT, Op::CONCAT,
                        Op::BINARY, Op::COMPARE, Op::FOR, Op::NEXT, Op::FOR_ELSE, Op::FOR_END, Op::FOR_DONE, Op::END_SCOPE,
                        Op::CAPTURED, Op::RETURN, Op::GIVEN, Op::JUMP_FALSE, Op::AND, Op::SET_ATTR, Op::ATTR, Op::UNPACK}) {
        const uint32_t operand = op == Op::CONCAT ? 2 : 0;
        CHECK(run({{op, operand}, {Op::END, 0}}, {"a"}) == damaged);
    }
    // A macro must not take what its caller has.
    for (const Op op : {Op::DROP, Op::END_SCOPE, Op::CAPTURED, Op::FOR_END}) {
        const Code code = {{Op::JUMP, 3}, {op, 0}, {Op::RETURN, 0}, {Op::STRING, 0}, {Op::SCOPE, 0}, {Op::CAPTURE, 0},
                           {Op::DUP, 0}, {Op::FOR, 0}, {Op::CALL, 0}, {Op::END, 0}};
        std::vector<uint8_t> bytes = section(code, {"a"}, true);
        bytes[16 + 4 * code.size() + 3] = 1; // the macro's first instruction
        const chat::Program program(bytes);
        chat::Render render(program);
        CHECK_THROWS_WITH(render.run(), damaged.c_str());
    }
}

TEST_CASE("lists in themselves, endless jumps and loops end") {
    CHECK(run({{Op::JUMP, 0}}) == "the chat template stops in line 0: it takes too many steps.");
    CHECK(run({{Op::LIST, 0}, {Op::DUP, 0}, {Op::APPEND, 0}, {Op::BUILTIN, tojson}, {Op::PRINT, 0}, {Op::END, 0}}) ==
          "the chat template stops in line 0: lists are nested more than 64 deep.");
    CHECK(run({{Op::LIST, 0}, {Op::DUP, 0}, {Op::APPEND, 0}, {Op::DUP, 0}, {Op::COMPARE, 0}, {Op::PRINT, 0}, {Op::END, 0}}) ==
          "the chat template stops in line 0: lists are nested more than 64 deep.");
    // A list that grows while a loop goes through it.
    CHECK(run({{Op::LIST, 0}, {Op::DUP, 0}, {Op::VALUE, 1}, {Op::APPEND, 0}, {Op::FOR, 0}, {Op::NEXT, 8}, {Op::APPEND, 0},
               {Op::JUMP, 5}, {Op::END, 0}})
              .find("the chat template stops in line 0: it takes ") == 0);
    CHECK(run({{Op::DUP, 0}, {Op::JUMP, 0}}).find("damaged") != std::string::npos);
    CHECK(run({{Op::VALUE, 1}, {Op::JUMP, 0}}).find("nested too deep") != std::string::npos);
    CHECK(run({{Op::SCOPE, 0}, {Op::JUMP, 0}}).find("nested too deep") != std::string::npos);
    CHECK(run({{Op::CAPTURE, 0}, {Op::JUMP, 0}}).find("nested too deep") != std::string::npos);
    CHECK(run({{Op::CALL, 0}, {Op::END, 0}}, {}, true).find("call each other too deep") != std::string::npos);
    CHECK(run({{Op::VALUE, 1}, {Op::VALUE, 1}, {Op::BUILTIN, cycle}, {Op::END, 0}}).find("outside of a loop") !=
          std::string::npos);
}

TEST_CASE("the editor's keys") {
    using Key = LineEditor::Key;
    LineEditor editor;
    editor.begin();
    editor.insert("a\u6F22e\u0301 b");
    editor.press(Key::LEFT), editor.press(Key::LEFT), editor.press(Key::LEFT);
    CHECK(editor.cursor() == 4); // before e with its accent
    editor.press(Key::BACKSPACE);
    CHECK(editor.text() == "ae\u0301 b");
    editor.press(Key::DELETE_);
    CHECK(editor.text() == "a b");
    editor.press(Key::END), editor.press(Key::DELETE_WORD);
    CHECK(editor.text() == "a ");
    editor.remember();
    editor.begin();
    editor.insert("new");
    editor.press(Key::UP);
    CHECK(editor.text() == "a ");
    editor.press(Key::UP), editor.press(Key::DOWN);
    CHECK(editor.text() == "new");
    editor.press(Key::DOWN), editor.press(Key::HOME), editor.press(Key::LEFT), editor.press(Key::DELETE_BEHIND);
    CHECK(editor.text().empty());
    editor.insert("\u6F22\u6F22\u6F22abc");
    int column;
    CHECK(editor.visible(20, column) == "\u6F22\u6F22\u6F22abc");
    CHECK(column == 9);
    CHECK(editor.visible(6, column) == "\u6F22abc");
    CHECK(column == 5);
    CHECK(text_columns("e\u0301\u200B\U0001F44D\U0001F3FD!") == 4);
}

TEST_CASE("stop texts in pieces") {
    StopText stop({"<end>", "##"});
    CHECK(stop.push("one <e") == "one ");
    CHECK(stop.push("n") == "");
    CHECK(stop.push("x #") == "<enx ");
    CHECK(stop.push("<") == "#");
    CHECK(stop.push("end") == "");
    CHECK(stop.found() == nullptr);
    CHECK(stop.push("> more") == "");
    CHECK((stop.found() != nullptr && *stop.found() == "<end>"));
    CHECK(stop.push("more") == "");
    StopText other({"aab"});
    CHECK(other.push("aaa") == "a");
    CHECK(other.flush() == "aa");
    StopText none({});
    CHECK(none.push("all") == "all");
}
