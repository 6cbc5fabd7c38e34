// What becomes of generated tokens: text that is never cut within a character, ids, or lines of JSON.
#pragma once
#include "stop_text.h"
#include "tokenizer.h"
#include "tokenizer_decode.h"

namespace n730 {

enum class Finish { EOS, STOP, LENGTH, CONTEXT, INTERRUPTED };

enum class Form { TEXT, IDS, JSON };

struct PrinterOptions {
    Form form = Form::TEXT;
    std::vector<std::string> stops;
    bool continues = true; // the text goes on behind a prompt; an answer begins anew
    int64_t top = 0; // JSON: likeliest tokens shown beside each
};

class Printer {
  public:
    Printer(const Tokenizer &tokenizer, int64_t vocab, const PrinterOptions &options);
    // A token and the logits that it was chosen by. False: the text has come to a stop.
    bool token(int32_t id, const float *logits);
    void end(Finish finish);
    const std::string &text() const { return all_; } // that was printed, where text is printed

  private:
    std::string scores(int32_t id, const float *logits);

    const Tokenizer &tokenizer_;
    const int64_t vocab_;
    const PrinterOptions options_;
    TokenStream stream_;
    StopText stop_;
    std::string all_;
    std::vector<int32_t> order_; // room to find the likeliest
    uint64_t tokens_ = 0;
};

} // namespace n730
