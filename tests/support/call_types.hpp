#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include <drover/wire/codec.hpp>

/// Values of the users' own kinds, for both sides of a call.
namespace support {

struct Point {
  int x = 0, y = 0;
  bool operator==(const Point&) const = default;
};
inline auto drover_fields(Point& p) { return std::tie(p.x, p.y); }

/// Travels by a specialisation of Codec; neither aggregate nor with fields.
class Celsius {
 public:
  Celsius() = default;
  explicit Celsius(double degrees) : degrees_(degrees) {}
  double degrees() const { return degrees_; }

 private:
  double degrees_ = 0;
};

/// Looks like one of protobuf's messages.
class Message {
 public:
  std::string text;

  std::size_t ByteSizeLong() const { return text.size() + 1; }
  bool SerializeToArray(void* to, int size) const {
    if (size < static_cast<int>(ByteSizeLong())) return false;
    static_cast<char*>(to)[0] = '#';
    std::memcpy(static_cast<char*>(to) + 1, text.data(), text.size());
    return true;
  }
  bool ParseFromArray(const void* from, int size) {
    if (size < 1 || static_cast<const char*>(from)[0] != '#') return false;
    text.assign(static_cast<const char*>(from) + 1, static_cast<std::size_t>(size) - 1);
    return true;
  }
};

/// Can be moved only.
struct Parcel {
  std::unique_ptr<std::string> content;
};
inline auto drover_fields(Parcel& p) { return std::tie(p.content); }

}  // namespace support

template <>
struct drover::Codec<support::Celsius> {
  static void encode(Encoder& out, const support::Celsius& c) { out.put(c.degrees()); }
  static support::Celsius decode(Decoder& in) { return support::Celsius(in.get<double>()); }
};
