// The command `render`: conversations in JSON in, the texts that the chat template makes of them out.
#include "chat_json.h"
#include "chat_render.h"
#include "commands.h"
#include "progress.h"
#include "text.h"

namespace n730 {

namespace {

// A line of JSON: a list of messages, or an object of variables with `messages` among them.
std::string render_line(const chat::Program &program, const std::string &line) {
    chat::Render render(program);
    try {
        const chat::Value given = chat::from_json(render.memory(), line);
        for (const char *name : {"tools", "documents"}) render.set(name, chat::none());
        render.set("add_generation_prompt", chat::boolean(false));
        if (given.kind == chat::Kind::LIST)
            render.set("messages", given);
        else if (given.kind == chat::Kind::MAPPING)
            for (uint32_t i = 0; i < given.mapping->size; ++i)
                render.set(given.mapping->entries[i].key.view(), given.mapping->entries[i].value);
        else
            throw chat::Failure{"a list of messages or an object was expected"};
    } catch (const chat::Failure &failure) {
        throw Error(failure.what);
    }
    return render.run();
}

} // namespace

int render(const std::string &path, const std::string &messages) {
    const FileSource source(path);
    const Package package = read_package(source);
    const chat::Program program = read_chat(package);
    const std::string text = platform::read_all(messages);
    for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.find('\n', at), text.size());
        const std::string line = text.substr(at, end - at);
        at = end + 1;
        if (line.find_first_not_of(" \t\r") == line.npos) continue;
        JsonObject answer;
        try {
            answer.add("text", render_line(program, line));
        } catch (const Error &error) {
            answer.add("error", std::string(error.what()));
        }
        put(answer.text() + "\n");
    }
    put_flush();
    return 0;
}

} // namespace n730
