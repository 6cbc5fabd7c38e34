// A conversation whose tokens are in the KV cache: what is there already is not computed again.
#pragma once
#include "commands.h"
#include "conversation.h"
#include "decoder.h"

namespace n730 {

// A message that there will be no answer to; the session goes on.
struct Refused {
    std::string why;
};

class Session {
  public:
    Session(Model &model, const ChatOptions &options);

    Conversation &conversation() { return conversation_; }
    // Computes what an answer to the last message needs, prints it and adds it to the conversation. Where nothing came of
    // it, the message is taken back. Throws Refused: by the template, or the message is too long; Error: it is all over.
    void answer();

    // Of the last answer.
    int64_t kept = 0, computed = 0, made = 0; // tokens: of the prompt in the cache before, and not; of the answer
    double prefill_seconds = 0, decode_seconds = 0;

  private:
    std::vector<int32_t> prompt();
    std::vector<int32_t> encode(const std::string &text) const;
    int64_t reusable(const std::vector<int32_t> &ids) const;

    Model &model_;
    PrinterOptions printing_;
    Sampler sampler_;
    Conversation conversation_;
    DecodeOptions decoding_;
    std::vector<int32_t> cached_; // ids whose keys and values are in the cache
    int64_t highest_ = 0;         // positions that were ever written
};

} // namespace n730
