#include "line_editor.h"
#include "error.h"
#include "text_width.h"
#include "utf8.h"

#include <algorithm>
#include <cstdio>

namespace n730 {

void LineEditor::begin() {
    text_.clear();
    pending_.clear();
    cursor_ = 0;
    entry_ = history_.size();
}

void LineEditor::insert(std::string_view text) {
    text_.insert(cursor_, text);
    cursor_ += text.size();
}

size_t LineEditor::before() const {
    size_t at = 0;
    for (size_t next; at < cursor_ && (next = at + next_glyph(std::string_view(text_).substr(at)).bytes) < cursor_;)
        at = next;
    return at;
}

size_t LineEditor::behind() const {
    return cursor_ < text_.size() ? cursor_ + next_glyph(std::string_view(text_).substr(cursor_)).bytes : cursor_;
}

void LineEditor::recall(size_t entry) {
    if (entry_ == history_.size()) pending_ = text_;
    entry_ = entry;
    text_ = entry == history_.size() ? pending_ : history_[entry];
    cursor_ = text_.size();
}

void LineEditor::remember() {
    if (!text_.empty() && (history_.empty() || history_.back() != text_)) history_.push_back(text_);
}

void LineEditor::press(Key key) {
    switch (key) {
    case Key::LEFT: cursor_ = before(); break;
    case Key::RIGHT: cursor_ = behind(); break;
    case Key::WORD_LEFT:
        while (cursor_ > 0 && text_[cursor_ - 1] == ' ') --cursor_;
        while (cursor_ > 0 && text_[cursor_ - 1] != ' ') --cursor_;
        break;
    case Key::WORD_RIGHT:
        while (cursor_ < text_.size() && text_[cursor_] == ' ') ++cursor_;
        while (cursor_ < text_.size() && text_[cursor_] != ' ') ++cursor_;
        break;
    case Key::HOME: cursor_ = 0; break;
    case Key::END: cursor_ = text_.size(); break;
    case Key::UP:
        if (entry_ > 0) recall(entry_ - 1);
        break;
    case Key::DOWN:
        if (entry_ < history_.size()) recall(entry_ + 1);
        break;
    case Key::BACKSPACE: {
        const size_t from = before();
        text_.erase(from, cursor_ - from);
        cursor_ = from;
        break;
    }
    case Key::DELETE_: text_.erase(cursor_, behind() - cursor_); break;
    case Key::DELETE_WORD: {
        const size_t end = cursor_;
        press(Key::WORD_LEFT);
        text_.erase(cursor_, end - cursor_);
        break;
    }
    case Key::DELETE_BEFORE:
        text_.erase(0, cursor_);
        cursor_ = 0;
        break;
    case Key::DELETE_BEHIND: text_.resize(cursor_); break;
    case Key::NONE: break;
    }
}

std::string LineEditor::visible(int columns, int &cursor_column) const {
    // The line moves to the left until the cursor is within the columns.
    size_t from = 0;
    const std::string_view text = text_;
    while (from < cursor_ && text_columns(text.substr(from, cursor_ - from)) >= columns)
        from += next_glyph(text.substr(from)).bytes;
    cursor_column = text_columns(text.substr(from, cursor_ - from));
    std::string shown;
    int used = 0;
    for (size_t at = from; at < text.size();) {
        const Glyph glyph = next_glyph(text.substr(at));
        used += glyph.columns;
        if (used > columns) break;
        const char c = text[at];
        shown += c == '\n' ? "\u21B5" : static_cast<unsigned char>(c) < 0x20 ? " " : std::string(text.substr(at, glyph.bytes));
        at += glyph.bytes;
    }
    return shown;
}

namespace {

using Key = LineEditor::Key;

struct Terminal {
    platform::Input &input;
    LineEditor &editor;
    const std::string &prompt;
    bool pasting = false;

    void draw() const {
        const int room = std::max(8, input.columns() - text_columns(prompt) - 1);
        int column;
        const std::string shown = editor.visible(room, column);
        std::fprintf(stderr, "\r%s%s\033[K\r", prompt.c_str(), shown.c_str());
        const int move = column + text_columns(prompt);
        if (move > 0) std::fprintf(stderr, "\033[%dC", move);
        std::fflush(stderr);
    }

    // What follows ESC.
    Key escape() {
        if (!input.ready(50)) return Key::NONE;
        int c = input.byte();
        if (c == 'b') return Key::WORD_LEFT;
        if (c == 'f') return Key::WORD_RIGHT;
        if (c != '[' && c != 'O') return Key::NONE;
        std::string numbers;
        while (input.ready(50) && (c = input.byte()) >= 0 && ((c >= '0' && c <= '9') || c == ';'))
            numbers += static_cast<char>(c);
        const bool word = numbers.size() > 2 && numbers.substr(numbers.size() - 2) == ";5";
        switch (c) {
        case 'A': return Key::UP;
        case 'B': return Key::DOWN;
        case 'C': return word ? Key::WORD_RIGHT : Key::RIGHT;
        case 'D': return word ? Key::WORD_LEFT : Key::LEFT;
        case 'H': return Key::HOME;
        case 'F': return Key::END;
        case '~': break;
        default: return Key::NONE;
        }
        if (numbers == "200" || numbers == "201") pasting = numbers == "200";
        if (numbers == "1" || numbers == "7") return Key::HOME;
        if (numbers == "4" || numbers == "8") return Key::END;
        return numbers == "3" ? Key::DELETE_ : Key::NONE;
    }

    static Key control(int c) {
        switch (c) {
        case 1: return Key::HOME;
        case 2: return Key::LEFT;
        case 5: return Key::END;
        case 6: return Key::RIGHT;
        case 8:
        case 127: return Key::BACKSPACE;
        case 11: return Key::DELETE_BEHIND;
        case 14: return Key::DOWN;
        case 16: return Key::UP;
        case 21: return Key::DELETE_BEFORE;
        case 23: return Key::DELETE_WORD;
        default: return Key::NONE;
        }
    }

    // The rest of a character whose first byte has come.
    std::string character(int first) {
        std::string bytes(1, static_cast<char>(first));
        while (utf8_next(bytes).kind == Utf8Unit::PARTIAL) {
            const int next = input.byte();
            if (next < 0) break;
            bytes += static_cast<char>(next);
        }
        return utf8_valid_length(bytes) == bytes.size() ? bytes : "\uFFFD";
    }

    // False at the end of the input.
    bool edit() {
        for (;;) {
            if (!input.ready(0)) draw();
            const int c = input.byte();
            if (c < 0 || (c == 4 && editor.text().empty())) return false;
            if ((c == '\r' || c == '\n') && !pasting) return true;
            if (c == '\r' || c == '\n') {
                editor.insert("\n");
            } else if (c == 3) {
                if (editor.text().empty()) std::fputs("\r/quit or Ctrl-D ends\033[K\r\n", stderr);
                editor.begin();
            } else if (c == 4) {
                editor.press(Key::DELETE_);
            } else if (c == 12) {
                std::fputs("\033[H\033[2J", stderr);
            } else if (c == 27) {
                editor.press(escape());
            } else if (c == '\t' || (c >= 0x20 && c != 127)) {
                editor.insert(character(c));
            } else {
                editor.press(control(c));
            }
        }
    }
};

// Raw mode, and pasted text marked as such, for as long as it lives.
class RawMode {
  public:
    explicit RawMode(platform::Input &input) : input_(input), on_(input.raw(true)) { mark('h'); }
    ~RawMode() {
        input_.raw(false); // first: whoever sees the mark can count on Ctrl-C being a signal again
        mark('l');
    }
    RawMode(const RawMode &) = delete;
    RawMode &operator=(const RawMode &) = delete;
    bool on() const { return on_; }

  private:
    void mark(char how) const {
        if (on_) std::fprintf(stderr, "\033[?2004%c", how), std::fflush(stderr);
    }
    platform::Input &input_;
    const bool on_;
};

} // namespace

bool ask_line(platform::Input &input, LineEditor &editor, const std::string &prompt, std::string &line) {
    const RawMode raw(input);
    if (!raw.on()) {
        if (input.interactive()) std::fputs(prompt.c_str(), stderr), std::fflush(stderr);
        if (!input.line(line)) return false;
        if (utf8_valid_length(line) != line.size()) throw Error("the input is not UTF-8", "", "", "Convert it to UTF-8.");
        return true;
    }
    editor.begin();
    Terminal terminal{input, editor, prompt};
    const bool more = terminal.edit();
    editor.press(Key::END);
    terminal.draw();
    std::fputs("\r\n", stderr);
    line = editor.text();
    editor.remember();
    return more;
}

} // namespace n730
