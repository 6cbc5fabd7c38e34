#include "output_path.h"
#include "error.h"
#include "platform.h"

#include <filesystem>

namespace n730 {

namespace fs = std::filesystem;

std::string output_path(const std::string &path, std::string_view magic, const std::string &kind,
                        const std::string &option) {
    const auto refuse = [&](const std::string &found) {
        throw Error("will not overwrite " + path, "a new file or an older " + kind, found,
                    "Name another file with " + option + ".");
    };
    const fs::path asked = fs::u8path(path);
    std::error_code error;
    if (!fs::exists(fs::symlink_status(asked, error))) return path;
    if (!fs::exists(asked, error)) refuse("a link to nothing");
    if (!fs::is_regular_file(asked, error)) refuse(fs::is_directory(asked, error) ? "a folder" : "a device or a pipe");
    const fs::path real = fs::canonical(asked, error);
    if (error) refuse(error.message());
    if (fs::file_size(real, error) > 0) {
        std::string start(magic.size(), '\0');
        const platform::File file(real.u8string());
        if (!file.read(0, &start[0], start.size()) || start != magic) refuse("another kind of file");
    }
    return real.u8string();
}

} // namespace n730
