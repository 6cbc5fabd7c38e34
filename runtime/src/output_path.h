// Where an output file may go.
#pragma once
#include <string>
#include <string_view>

namespace n730 {

// The path to write `path` at: itself, or what a link points to. Throws Error unless it is new, empty, or starts with
// `magic`, which makes it an older file of the same `kind`: never a device, a pipe or something else's file.
// `option`: the one that named it.
std::string output_path(const std::string &path, std::string_view magic, const std::string &kind,
                        const std::string &option);

} // namespace n730
