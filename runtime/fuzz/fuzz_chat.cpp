// Any bytes as a CHAT section; what the validator accepts is run on a conversation. It must end, and soon.
#include "chat_json.h"
#include "chat_render.h"
#include "error.h"

using namespace n730;

namespace {

constexpr const char *MESSAGES =
    R"([{"role": "system", "content": " Be kind.\n"}, {"role": "user", "content": "Größe, 漢字 <x>", "n": 3},)"
    R"( {"role": "assistant", "content": "<think>a</think> b", "list": [1, [null, true], {"k": "v"}]}])";

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    std::string why;
    if (!chat::validate(data, size, why) || size == 0) return 0;
    const chat::Program program(std::vector<uint8_t>(data, data + size));
    chat::Render render(program);
    render.set("messages", chat::from_json(render.memory(), MESSAGES));
    render.set("add_generation_prompt", chat::boolean(true));
    render.set("tools", chat::none());
    try {
        const std::string text = render.run();
        if (text.size() > chat::MOST_OUTPUT) __builtin_trap();
    } catch (const Error &) {
    }
    return 0;
}
