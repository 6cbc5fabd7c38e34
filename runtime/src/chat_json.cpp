#include "chat_json.h"

#include <nlohmann/json.hpp>

namespace n730::chat {

namespace {

using Json = nlohmann::ordered_json;

Value convert(Memory &memory, const Json &json, uint32_t depth) {
    if (depth > Memory::DEEPEST) throw Failure{"JSON is nested more than 64 deep"};
    switch (json.type()) {
    case Json::value_t::null: return none();
    case Json::value_t::boolean: return boolean(json.get<bool>());
    case Json::value_t::number_integer: return integer(json.get<int64_t>());
    case Json::value_t::number_unsigned:
        if (json.get<uint64_t>() > INT64_MAX) throw Failure{"a number beyond 64 bits"};
        return integer(static_cast<int64_t>(json.get<uint64_t>()));
    case Json::value_t::string: return memory.text(json.get_ref<const std::string &>());
    case Json::value_t::array: {
        Value list = memory.list(static_cast<uint32_t>(json.size()));
        for (const Json &element : json) memory.append(list, convert(memory, element, depth + 1));
        return list;
    }
    case Json::value_t::object: {
        Value mapping = memory.mapping(Kind::MAPPING, static_cast<uint32_t>(json.size()));
        for (const auto &[key, value] : json.items())
            memory.set(mapping, memory.text(key).view(), convert(memory, value, depth + 1));
        return mapping;
    }
    default: throw Failure{"a number that is not whole"};
    }
}

} // namespace

Value from_json(Memory &memory, std::string_view text) {
    const Json json = Json::parse(text.begin(), text.end(), nullptr, false);
    if (json.is_discarded()) throw Failure{"this is not JSON"};
    return convert(memory, json, 0);
}

} // namespace n730::chat
