// Messages, and the text that the model's chat template makes of them.
#pragma once
#include "chat_program.h"

#include <string>
#include <vector>

namespace n730 {

struct Message {
    std::string role, content;
};

class Conversation {
  public:
    explicit Conversation(chat::Program program) : program_(std::move(program)) {}

    // In front of all messages; empty: none.
    void set_system(const std::string &text) { system_ = text; }
    const std::string &system() const { return system_; }
    void add(const std::string &role, const std::string &content) { messages_.push_back({role, content}); }
    void remove_last() { messages_.pop_back(); }
    void clear() { messages_.clear(); }
    size_t size() const { return messages_.size(); } // without the system message
    const std::vector<Message> &messages() const { return messages_; }
    void restore(std::vector<Message> messages) { messages_ = std::move(messages); }
    // Drops the oldest message of the user and all up to the next one. False: there is only one.
    bool drop_oldest();

    // What the model is to see; with `prompt` it ends where an answer begins. Throws Error: the template refuses.
    std::string render(bool prompt) const;
    // What the template puts behind an answer, without white space around it; empty if nothing.
    std::string answer_end() const;

  private:
    std::string render(const std::string &system, const std::vector<Message> &messages, bool prompt) const;

    chat::Program program_;
    std::string system_;
    std::vector<Message> messages_;
};

} // namespace n730
