#include "conversation.h"
#include "chat_render.h"
#include "chat_text.h"
#include "error.h"

namespace n730 {

bool Conversation::drop_oldest() {
    size_t n = 1;
    while (n < messages_.size() && messages_[n].role != "user") ++n;
    if (n >= messages_.size()) return false;
    messages_.erase(messages_.begin(), messages_.begin() + static_cast<std::ptrdiff_t>(n));
    return true;
}

std::string Conversation::render(const std::string &system, const std::vector<Message> &messages, bool prompt) const {
    chat::Render render(program_);
    chat::Memory &memory = render.memory();
    try {
        chat::Value list = memory.list(static_cast<uint32_t>(messages.size()) + 1);
        const auto add = [&](const std::string &role, const std::string &content) {
            chat::Value message = memory.mapping(chat::Kind::MAPPING, 2);
            memory.set(message, "role", memory.text(role));
            memory.set(message, "content", memory.text(content));
            memory.append(list, message);
        };
        if (!system.empty()) add("system", system);
        for (const Message &message : messages) add(message.role, message.content);
        render.set("messages", list);
        render.set("tools", chat::none());
        render.set("documents", chat::none());
        render.set("add_generation_prompt", chat::boolean(prompt));
    } catch (const chat::Failure &failure) {
        throw Error("the conversation cannot be rendered: " + failure.what);
    }
    return render.run();
}

std::string Conversation::render(bool prompt) const { return render(system_, messages_, prompt); }

std::string Conversation::answer_end() const {
    const std::string answer = "Answer-730";
    try {
        const std::string text = render("", {{"user", "Question"}, {"assistant", answer}}, false);
        const size_t at = text.find(answer);
        if (at == text.npos) return "";
        return std::string(chat::strip_space(std::string_view(text).substr(at + answer.size()), chat::BOTH));
    } catch (const Error &) {
        return "";
    }
}

} // namespace n730
