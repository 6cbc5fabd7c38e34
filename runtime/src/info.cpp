// Commands that look at a package without running it: info, verify, tokenize.
#include "builtin_kernels.h"
#include "commands.h"
#include "cuda_kernels.h"
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

// What would compute here, once the package is trusted.
struct CardView {
    std::string card, why; // the card, or empty; what keeps it from computing, or empty
    const Image *image = nullptr;
    uint64_t free = 0; // bytes of its memory
};

CardView look_for_card(const Package &package) {
    CardView view;
    try {
        const std::unique_ptr<Cuda> cuda = Cuda::open(view.why);
        if (cuda == nullptr) return view;
        view.card = cuda->describe();
        view.free = cuda->free_vram();
        view.image = choose_image(package, *cuda, true, view.why);
    } catch (const CardFailed &failure) {
        view.why = failure.what();
    }
    return view;
}

const char *device_of(const Package &package, const PlanChoice &choice) {
    if (!choice.plan || package.plans[*choice.plan].vram_bytes == 0) return "cpu";
    return package.cards[*choice.plan].empty() ? "gpu" : "split";
}

std::string device_line(const Package &package, const PlanChoice &choice, const CardView &view) {
    const std::string device = device_of(package, choice), kernels = view.image != nullptr ? isa_name(view.image->isa) : "";
    if (device != "cpu")
        return (device == "gpu" ? "the graphics card" : "the CPU and the graphics card") +
               (", with --trust: the card's kernels (" + kernels + ") are the package's own code");
    if (view.image == nullptr) return "the CPU: " + view.why;
    const bool planned = package.plans[0].vram_bytes > 0; // such plans come first
    return std::string("the CPU: ") + (planned ? "no plan that uses the card fits" : "no plan of the package uses the card") +
           "; --device cuda --trust has it compute everything, if it can";
}

std::string as_json(const Package &package, const std::string &path, const PlanChoice &choice, const CardView &view) {
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
               .add("device", std::string(device_of(package, choice)))
               .add("device_reason", device_line(package, choice, view))
               .add("card", view.card)
               .raw("images", images)
               .raw("meta", std::string(meta.begin(), meta.end()))
               .text() +
           "\n";
}

std::string as_text(const Package &package, const std::string &path, const PlanChoice &choice, const CardView &view) {
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
        out += "plan " + std::to_string(i + 1) + ": " + format_need(p.ram_bytes()) + " of RAM, " +
               (p.vram_bytes > 0 ? format_need(p.vram_bytes) + " of VRAM, " : "") + "context " +
               std::to_string(p.context) + ", predicted " + format_number(p.decode_tokens_per_s) +
               " tokens/s, first token after " + format_number(p.first_token_s) + " s\n";
    }
    out += "taken here: " + (choice.plan ? "plan " + std::to_string(*choice.plan + 1) : "none") + ", " + choice.why + "\n";
    if (!view.card.empty()) out += "graphics card: " + view.card + "\n";
    out += "computing here: " + device_line(package, choice, view) + "\n";
    for (const Image &image : package.images) {
        if (gpu_architecture(image.isa) != 0) {
            out += std::string("image ") + isa_name(image.isa) + ": " + format_size(image.size) + ", for graphics cards\n";
            continue;
        }
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
    const CardView view = look_for_card(package);
    const auto fits = [&](size_t plan, uint64_t) { return view.image != nullptr && package.plans[plan].vram_bytes <= view.free; };
    const PlanChoice choice = choose_plan(package, ram, platform::free_ram(), fits);
    put(json ? as_json(package, path, choice, view) : as_text(package, path, choice, view));
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
