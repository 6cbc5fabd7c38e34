// One line of input on a terminal: cursor keys, history, UTF-8. The editing itself knows no terminal.
#pragma once
#include "platform.h"

#include <string_view>

namespace n730 {

class LineEditor {
  public:
    enum class Key {
        LEFT,
        RIGHT,
        WORD_LEFT,
        WORD_RIGHT,
        HOME,
        END,
        UP,
        DOWN,
        BACKSPACE,
        DELETE_,
        DELETE_WORD,
        DELETE_BEFORE,
        DELETE_BEHIND,
        NONE
    };
    void begin();                         // an empty line
    void insert(std::string_view text);   // at the cursor
    void press(Key key);
    const std::string &text() const { return text_; }
    size_t cursor() const { return cursor_; } // bytes before it
    void remember(); // puts the line into the history

    // What a line of `columns` shows of it, and the column where the cursor stands in that.
    std::string visible(int columns, int &cursor_column) const;

  private:
    size_t before() const; // where the character before the cursor begins
    size_t behind() const; // where the one at the cursor ends
    void recall(size_t entry);

    std::string text_;
    size_t cursor_ = 0;
    std::vector<std::string> history_;
    size_t entry_ = 0;    // of the history that is shown; its size: the line itself
    std::string pending_; // the line itself, while another is shown
};

// Asks for a line with the editor, or as the system gives lines where there is no such terminal. False at the end of the
// input. Ctrl-C empties the line; where the system gives lines, and when the process is to end, it throws Interrupted.
bool ask_line(platform::Input &input, LineEditor &editor, const std::string &prompt, std::string &line);

} // namespace n730
