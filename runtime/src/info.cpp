// Commands that look at a package without running it: info, verify, tokenize.
#include "commands.h"
#include "progress.h"
#include "text.h"

#include <nlohmann/json.hpp>

namespace n730 {

namespace {

using Json = nlohmann::ordered_json;

Json tensors_by_format(const Package &package) {
    Json out = Json::object();
    for (const Tensor &t : package.tensors) {
        Json &row = out[format_name(t.format)];
        if (row.is_null()) row = {{"tensors", 0}, {"weights", 0}, {"bytes", 0}};
        row["tensors"] = row["tensors"].get<uint64_t>() + 1;
        row["weights"] = row["weights"].get<uint64_t>() + uint64_t(t.rows) * t.cols;
        row["bytes"] = row["bytes"].get<uint64_t>() + t.size;
    }
    return out;
}

Json plans(const Package &package) {
    Json out = Json::array();
    for (const Plan &p : package.plans)
        out.push_back({{"ram_bytes", p.arena_bytes},
                       {"vram_bytes", 0},
                       {"context", p.context},
                       {"batch", p.batch},
                       {"head_batch", p.head_batch},
                       {"disk_bytes_per_token", p.disk_bytes_per_token},
                       {"decode_tokens_per_s", p.decode_tokens_per_s},
                       {"prefill_tokens_per_s", p.prefill_tokens_per_s},
                       {"first_token_s", p.first_token_s}});
    return out;
}

Json images(const Package &package) {
    Json out = Json::array();
    for (size_t i = 0; i < package.images.size(); ++i) {
        const char *makers[] = {"none", "template", "tvm"};
        size_t counts[3] = {};
        for (size_t k = 0; k < package.kernels.size(); ++k)
            ++counts[package.entries[i * package.kernels.size() + k].maker];
        Json row = {{"isa", package.images[i].isa == Isa::AVX2 ? "avx2" : "sse2"}, {"bytes", package.images[i].size}};
        for (size_t m = 0; m < 3; ++m) row["kernels"][makers[m]] = counts[m];
        out.push_back(row);
    }
    return out;
}

std::string plain_text(const Json &facts) {
    std::string out = facts["package"].get<std::string>() + ": " + format_size(facts["file_bytes"]) + ", " +
                      std::to_string(facts["tensors"].get<uint64_t>()) + " tensors, vocabulary of " +
                      std::to_string(facts["vocab"].get<uint64_t>()) + "\n";
    if (facts["meta"].contains("model")) out += "model: " + facts["meta"]["model"].dump() + "\n";
    for (const auto &[format, row] : facts["formats"].items())
        out += "  " + format + ": " + std::to_string(row["tensors"].get<uint64_t>()) + " tensors, " +
               format_size(row["bytes"]) + "\n";
    size_t index = 0;
    for (const Json &p : facts["plans"])
        out += "plan " + std::to_string(index++) + ": " + format_size(p["ram_bytes"]) + " of RAM, context " +
               std::to_string(p["context"].get<uint64_t>()) + ", predicted " + format_number(p["decode_tokens_per_s"]) +
               " tokens/s, first token after " + format_number(p["first_token_s"]) + " s\n";
    out += "taken here: " + (facts["plan"].is_null() ? "none" : "plan " + facts["plan"].dump()) + ", " +
           facts["plan_reason"].get<std::string>() + "\n";
    for (const Json &image : facts["images"])
        out += "image: " + image["isa"].get<std::string>() + ", " + format_size(image["bytes"]) +
               ", kernels by template " + image["kernels"]["template"].dump() + ", by TVM " +
               image["kernels"]["tvm"].dump() + "\n";
    return out;
}

} // namespace

int info(const std::string &path, uint64_t ram, bool json) {
    const FileSource source(path);
    const Package package = read_package(source);
    const PlanChoice choice = choose_plan(package, ram, platform::free_ram());
    const std::vector<uint8_t> meta = read_section(package, META);
    uint64_t weights = 0;
    for (const Segment &segment : package.segments) weights += segment.size;
    Json facts = {{"package", path},
                  {"file_bytes", package.file_size},
                  {"weight_bytes", weights},
                  {"vocab", package.program.vocab},
                  {"tensors", package.tensors.size()},
                  {"segments", package.segments.size()},
                  {"steps", package.steps.size()},
                  {"kernels", package.kernels.size()},
                  {"tokenizer_bytes", package.sections[TOKENIZER].size},
                  {"chat_template_bytes", package.sections[CHAT].size},
                  {"formats", tensors_by_format(package)},
                  {"plans", plans(package)},
                  {"plan", choice.plan ? Json(*choice.plan) : Json()},
                  {"plan_reason", choice.why},
                  {"images", images(package)},
                  {"meta", Json::parse(meta)}};
    put(json ? facts.dump(2, ' ', false, Json::error_handler_t::replace) + "\n" : plain_text(facts));
    put_flush();
    return 0;
}

int verify(const std::string &path) {
    const FileSource source(path);
    const Package package = read_package(source);
    {
        Progress progress("verifying", package.file_size - package.segments[0].offset, "");
        verify_segments(package, [&](uint64_t bytes) {
            progress.advance(bytes);
            if (platform::interrupted()) throw Interrupted();
        });
    }
    put("OK " + path + ": " + std::to_string(package.tensors.size()) + " tensors in " +
        std::to_string(package.segments.size()) + " segments, " + format_size(package.file_size) + "\n");
    put_flush();
    return 0;
}

int tokenize(const std::string &path, const std::string &text_file) {
    const FileSource source(path);
    const Package package = read_package(source);
    const std::vector<uint8_t> tables = read_section(package, TOKENIZER);
    const Tokenizer tokenizer(tables.data(), tables.size());
    std::string line;
    const char *separator = "[";
    for (const int32_t id : encode_text(tokenizer, platform::read_all(text_file), false, text_file)) {
        line.append(separator).append(std::to_string(id));
        separator = ", ";
        if (line.size() < 60000) continue;
        put(line);
        line.clear();
    }
    put(line + (*separator == '[' ? "[]\n" : "]\n"));
    put_flush();
    return 0;
}

} // namespace n730
