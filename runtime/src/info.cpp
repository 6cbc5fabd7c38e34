// Commands that look at a package without running it: info, verify, tokenize.
#include "builtin_kernels.h"
#include "commands.h"
#include "progress.h"
#include "text.h"

#include <map>

namespace n730 {

namespace {

struct FormatSum {
    uint64_t tensors = 0, weights = 0, bytes = 0;
};

std::map<Format, FormatSum> sum_by_format(const Package &package) {
    std::map<Format, FormatSum> sums;
    for (const Tensor &t : package.tensors) {
        FormatSum &sum = sums[t.format];
        ++sum.tensors;
        sum.weights += uint64_t(t.rows) * t.cols;
        sum.bytes += t.size;
    }
    return sums;
}

// How many kernels of an image each maker made.
std::array<uint64_t, 3> count_makers(const Package &package, const Image &image) {
    std::array<uint64_t, 3> counts{};
    const size_t first = static_cast<size_t>(&image - package.images.data()) * package.kernels.size();
    for (size_t k = 0; k < package.kernels.size(); ++k) ++counts[package.entries[first + k].maker];
    return counts;
}

uint64_t weight_bytes(const Package &package) {
    uint64_t bytes = 0;
    for (const Segment &segment : package.segments) bytes += segment.size;
    return bytes;
}

std::string as_json(const Package &package, const std::string &path, const PlanChoice &choice) {
    JsonObject formats;
    for (const auto &[format, sum] : sum_by_format(package))
        formats.raw(
            format_name(format),
            JsonObject().add("tensors", sum.tensors).add("weights", sum.weights).add("bytes", sum.bytes).text());
    const std::string plans = json_array(package.plans, [](const Plan &p) {
        return JsonObject()
            .add("ram_bytes", p.ram_bytes())
            .add("vram_bytes", p.vram_bytes)
            .add("context", uint64_t(p.context))
            .add("batch", uint64_t(p.batch))
            .add("head_batch", uint64_t(p.head_batch))
            .add("disk_bytes_per_token", p.disk_bytes_per_token)
            .add("decode_tokens_per_s", p.decode_tokens_per_s)
            .add("prefill_tokens_per_s", p.prefill_tokens_per_s)
            .add("first_token_s", p.first_token_s)
            .text();
    });
    const std::string images = json_array(package.images, [&](const Image &image) {
        const auto [none, by_template, tvm] = count_makers(package, image);
        return JsonObject()
            .add("isa", std::string(isa_name(image.isa)))
            .add("bytes", image.size)
            .raw("kernels", JsonObject().add("none", none).add("template", by_template).add("tvm", tvm).text())
            .text();
    });
    const std::vector<uint8_t> meta = read_section(package, META);
    return JsonObject(true)
               .add("package", path)
               .add("file_bytes", package.file_size)
               .add("weight_bytes", weight_bytes(package))
               .add("vocab", uint64_t(package.program.vocab))
               .add("tensors", uint64_t(package.tensors.size()))
               .add("segments", uint64_t(package.segments.size()))
               .add("steps", uint64_t(package.steps.size()))
               .add("kernels", uint64_t(package.kernels.size()))
               .add("tokenizer_bytes", package.sections[TOKENIZER].size)
               .add("chat_template_bytes", package.sections[CHAT].size)
               .raw("formats", formats.text())
               .raw("plans", plans)
               .raw("plan", choice.plan ? std::to_string(*choice.plan) : "null")
               .add("plan_reason", choice.why)
               .raw("images", images)
               .raw("meta", std::string(meta.begin(), meta.end()))
               .text() +
           "\n";
}

std::string as_text(const Package &package, const std::string &path, const PlanChoice &choice) {
    std::string out = path + ": " + format_size(package.file_size) + ", " + std::to_string(package.tensors.size()) +
                      " tensors, vocabulary of " + std::to_string(package.program.vocab) + "\n";
    for (const char *name : {"model", "compiler"})
        if (const std::string value = meta_member(package, name); !value.empty())
            out += std::string(name) + " " + value + "\n";
    for (const auto &[format, sum] : sum_by_format(package))
        out += std::string("  ") + format_name(format) + ": " + std::to_string(sum.tensors) + " tensors, " +
               format_size(sum.bytes) + "\n";
    for (size_t i = 0; i < package.plans.size(); ++i) {
        const Plan &p = package.plans[i];
        out += "plan " + std::to_string(i + 1) + ": " + format_need(p.ram_bytes()) + " of RAM, context " +
               std::to_string(p.context) + ", predicted " + format_number(p.decode_tokens_per_s) +
               " tokens/s, first token after " + format_number(p.first_token_s) + " s\n";
    }
    out += "taken here: " + (choice.plan ? "plan " + std::to_string(*choice.plan + 1) : "none") + ", " + choice.why + "\n";
    for (const Image &image : package.images) {
        const auto [none, by_template, tvm] = count_makers(package, image);
        out += std::string("image ") + isa_name(image.isa) + ": " + format_size(image.size) + ", kernels by template " +
               std::to_string(by_template) + ", by TVM " + std::to_string(tvm) + ", none " + std::to_string(none) +
               "\n";
    }
    return out;
}

} // namespace

int info(const std::string &path, uint64_t ram, bool json) {
    const FileSource source(path);
    const Package package = read_package(source);
    const PlanChoice choice = choose_plan(package, ram, platform::free_ram());
    put(json ? as_json(package, path, choice) : as_text(package, path, choice));
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
