// Token ids to text, one by one, by the program DECODER.
#pragma once
#include <string>
#include <string_view>

#include "tokenizer_tables.h"
#include "utf8.h"

namespace n730 {

class Tokenizer;

// The texts that come out, put together, are what the model's own library makes of all the ids at once. Where that
// depends on what is still to come, the text is held back: within a character, and within a run of <0x..> tokens.
class TokenStream {
  public:
    // `continues`: the text goes on behind another, so that what is special about its beginning (a space that is left
    // out) is not done.
    explicit TokenStream(const Tokenizer &tokenizer, bool continues = false);

    // Takes an id and returns the text that is certain now; the view is valid until the next call. Whoever does not
    // want special tokens in the text leaves them out.
    std::string_view push(int32_t id);
    // Ends the stream; the next id begins another.
    std::string_view flush();

  private:
    static constexpr size_t kLongest = 65536; // bytes from which on a token's text is left as it is

    bool apply(const TextStep &step); // to token_; false: it was a byte, which is in run_ now
    void end_run();
    void put(std::string_view text);
    void substitute(std::string_view what, std::string_view by);

    const TokenizerTables &tables_;
    const bool continues_;
    bool first_ = true;        // no token has come yet
    uint32_t trim_ = 0;        // how many characters TRIM may still take
    std::string_view trimmed_; // the character
    Utf8Stream utf8_;
    std::string token_, other_, run_, out_;
};

} // namespace n730
