// The command `chat`: one message after the other, each answered.
#include "line_editor.h"
#include "progress.h"
#include "session.h"
#include "text.h"

namespace n730 {

namespace {

constexpr const char *HELP = "/reset: forget the conversation    /system TEXT: the system message from now on (none: without)\n"
                             "/help    /quit or Ctrl-D: end    Ctrl-C: stop an answer";

class Chat {
  public:
    Chat(Model &model, const ChatOptions &options) : options_(options), session_(model, options) {}

    // False: the user wants to leave.
    bool line(const std::string &text) {
        if (text.empty()) return true;
        if (text[0] == '/') return command(text);
        message(text);
        return true;
    }

  private:
    bool command(const std::string &text) {
        const size_t space = text.find(' ');
        const std::string name = text.substr(0, space), rest = space == text.npos ? "" : text.substr(space + 1);
        if (name == "/quit" || name == "/exit") return false;
        if (name == "/reset") {
            session_.conversation().clear();
            say("the conversation is forgotten");
        } else if (name == "/system") {
            session_.conversation().set_system(rest);
            say(rest.empty() ? "no system message from now on" : "the system message is set");
        } else {
            say(name == "/help" ? HELP : name + " is no command\n" + HELP);
        }
        return true;
    }

    void message(const std::string &text) {
        session_.conversation().add("user", text);
        try {
            session_.answer();
        } catch (const Refused &refused) {
            say("error: " + refused.why);
            return;
        }
        if (options_.stats) {
            const auto rate = [](int64_t n, double s) { return s > 0 ? format_number(static_cast<double>(n) / s) : "0"; };
            say(std::to_string(session_.kept) + " tokens were in the cache, " + std::to_string(session_.computed) +
                " read at " + rate(session_.computed, session_.prefill_seconds) + "/s, " + std::to_string(session_.made) +
                " generated at " + rate(session_.made, session_.decode_seconds) + "/s");
        }
    }

    const ChatOptions &options_;
    Session session_;
};

} // namespace

int talk(const RunOptions &run, const ChatOptions &options) {
    if (options.system) require_utf8(*options.system, "the system message");
    Model model(run);
    Chat chat(model, options);
    model.load();
    model.reader.finish_passes(true); // Ctrl-C ends an answer, not the passes over the weights
    platform::Input input;
    LineEditor editor;
    if (input.interactive()) say("/help shows what can be typed beside messages");
    for (std::string line;;) {
        try {
            if (!ask_line(input, editor, "> ", line) || !chat.line(line)) return 0;
        } catch (const Interrupted &) {
            return EXIT_INTERRUPTED;
        }
        if (platform::interrupted() && !platform::forget_interrupt()) return EXIT_INTERRUPTED;
    }
}

} // namespace n730
