#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include <drover/os/detail/descriptor_list.hpp>
#include <drover/os/fd.hpp>
#include <drover/wire/buffer.hpp>
#include <drover/wire/detail/codec_budget.hpp>
#include <drover/wire/detail/received_memory.hpp>

/// The layer under Encoder and Decoder: kinds, fixed-size fields and lengths.
namespace drover { inline namespace v1 { namespace detail {

class FrameBody;

/// The first byte of every value.
enum class Kind : std::uint8_t {
  boolean = 1,   // one byte, 0 or 1
  integer,       // std::int64_t
  unsigned_int,  // std::uint64_t
  floating,      // double
  extended,      // long double that does not fit into a double
  text,          // length, bytes
  bytes,         // length, bytes
  numbers,       // element type, count, contiguous elements
  sequence,      // count, values
  map,           // count, then key and value in turn
  optional,      // one byte, 0 or 1; then the value if 1
  variant,       // index, value
  tuple,         // count, values
  duration,      // period (two std::int64_t), a number
  time_point,    // clock (one byte), a duration
  message,       // text (the name of its type), bytes (what it serialises to)
  custom,        // what Codec<T>::encode has written
  wide_integer,  // one byte, 1 if negative; upper and lower half of the number
  complex,       // two numbers
  bits,          // count, bytes with eight bits each, the first one lowest
  calendar,      // type of the date (one byte), its parts
  error_code,    // value (std::int32_t), text (the name of its category)
  descriptor,    // nothing: it is the next one of those that are attached to the message
  shared_text,   // length; the memory is the next attached descriptor, unless the length is 0
  shared_bytes   // the same
};

constexpr const char* describe(Kind kind) noexcept {
  switch (kind) {
    case Kind::boolean: return "a bool";
    case Kind::integer: return "an integer";
    case Kind::unsigned_int: return "an unsigned integer";
    case Kind::floating: return "a floating-point number";
    case Kind::extended: return "a long double";
    case Kind::text: return "a string";
    case Kind::bytes: return "bytes";
    case Kind::numbers: return "a sequence of numbers";
    case Kind::sequence: return "a sequence";
    case Kind::map: return "a map";
    case Kind::optional: return "an optional";
    case Kind::variant: return "a variant";
    case Kind::tuple: return "a tuple";
    case Kind::duration: return "a duration";
    case Kind::time_point: return "a time point";
    case Kind::message: return "a serialised message";
    case Kind::custom: return "a value with a codec of its own";
    case Kind::wide_integer: return "an integer of 128 bits";
    case Kind::complex: return "a complex number";
    case Kind::bits: return "a bitset";
    case Kind::calendar: return "a date";
    case Kind::error_code: return "an error code";
    case Kind::descriptor: return "a descriptor";
    case Kind::shared_text: return "shared text";
    case Kind::shared_bytes: return "shared bytes";
  }
  return "something malformed";
}

/// How deep values may be nested, on both sides: structs within structs, whatever containers are between them.
inline constexpr unsigned max_depth = 256;

/// Bytes of stack that such structs may take together while they are decoded. Applies to structs nested deeper than
/// depth_of_any_size, which must contain themselves.
inline constexpr std::size_t max_stack = std::size_t{2} << 20;
inline constexpr unsigned depth_of_any_size = 8;

class RawEncoder {
 public:
  explicit RawEncoder(ByteBuffer& out, FrameBody* message = nullptr) noexcept : out_(&out), message_(message) {}

  void kind(Kind kind) { *out_->extend(1) = static_cast<std::byte>(kind); }

  template <class T>
  void fixed(T value) {
    std::memcpy(out_->extend(sizeof value), &value, sizeof value);
  }

  /// A kind and a field together.
  template <class T>
  void tagged(Kind kind, T value) {
    std::byte* const place = out_->extend(1 + sizeof value);
    *place = static_cast<std::byte>(kind);
    std::memcpy(place + 1, &value, sizeof value);
  }

  /// A kind, a length and that many bytes.
  void tagged_bytes(Kind kind, const void* bytes, std::size_t count) {
    std::byte* const place = tagged_room(kind, count);
    if (count != 0) std::memcpy(place, bytes, count);
  }

  /// A kind, a length and room for that many bytes.
  std::byte* tagged_room(Kind kind, std::size_t count) {
    constexpr std::size_t head = 1 + sizeof(std::uint64_t);
    if (count > SIZE_MAX - head) throw std::bad_alloc();
    const std::uint64_t length = count;
    std::byte* const place = out_->extend(head + count);
    *place = static_cast<std::byte>(kind);
    std::memcpy(place + 1, &length, sizeof length);
    return place + head;
  }

  ByteBuffer& out() noexcept { return *out_; }
  /// The body that the buffer belongs to. Null if it belongs to none.
  FrameBody* message() noexcept { return message_; }

  void enter(std::size_t) {
    if (++depth_ > max_depth)
      throw std::length_error("a value nested more than " + std::to_string(max_depth) + " deep can't be encoded");
  }
  void leave(std::size_t) noexcept { --depth_; }

 private:
  ByteBuffer* out_;
  FrameBody* message_;
  unsigned depth_ = 0;
};

class RawDecoder {
 public:
  RawDecoder(std::span<const std::byte> bytes, std::size_t spare_memory, DescriptorList* descriptors = nullptr) noexcept
      : at_(bytes.data()), end_(at_ + bytes.size()), descriptors_(descriptors), budget_(bytes.size(), spare_memory) {}

  std::size_t remaining() const noexcept { return static_cast<std::size_t>(end_ - at_); }

  /// The kind of the next value, without taking it.
  Kind peek(const char* wanted) const {
    if (at_ == end_) decode_failed(std::string("expected ") + wanted + ", found the end of the message");
    return static_cast<Kind>(*at_);
  }

  void skip_kind() noexcept { ++at_; }

  Kind kind(const char* wanted) {
    const Kind found = peek(wanted);
    ++at_;
    return found;
  }

  void expect(Kind kind) { expect(kind, describe(kind)); }
  void expect(Kind wanted, const char* name) {
    const Kind found = kind(name);
    if (found != wanted) mismatch(name, found);
  }

  template <class T>
  T fixed() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

  const std::byte* take(std::size_t count) {
    if (count > remaining()) decode_failed("message cut off: a value extends past its end");
    const std::byte* const taken = at_;
    at_ += count;
    return taken;
  }

  /// The length of something whose elements take `width` bytes or more each; all of them are in the message.
  std::size_t count(std::size_t width) {
    const auto claimed = fixed<std::uint64_t>();
    if (claimed > remaining() / width) decode_failed("message cut off: a length goes beyond its end");
    return static_cast<std::size_t>(claimed);
  }

  std::string_view counted_bytes() {
    const std::size_t length = count(1);
    return {reinterpret_cast<const char*>(take(length)), length};
  }

  bool flag(const char* what) {
    const auto value = fixed<std::uint8_t>();
    if (value > 1) decode_failed(std::string("malformed ") + what);
    return value == 1;
  }

  void finish() const {
    if (at_ != end_)
      decode_failed(std::string("expected the end of the message, found ") + describe(static_cast<Kind>(*at_)));
    if (descriptors_ != nullptr && !descriptors_->empty())
      decode_failed("the message has descriptors that belong to none of its values: " +
                    std::to_string(descriptors_->size()));
  }

  UniqueFd take_descriptor() {
    if (descriptors_ != nullptr && !descriptors_->empty()) return descriptors_->take();
    if (descriptors_ != nullptr && descriptors_->incomplete())
      throw_errno("this process had no room for a descriptor that was sent to it", EMFILE);
    decode_failed("expected a descriptor that was not sent with the message");
  }

  /// `size`: of the memory, at least one byte.
  std::shared_ptr<const SharedMemory> take_memory(std::uint64_t size) {
    if (size > most_shared_)
      decode_failed("shared memory of " + std::to_string(size) + " bytes, where at most " +
                    std::to_string(most_shared_) + " are allowed");
    most_shared_ -= size;
    const bool untrusted = descriptors_ != nullptr && descriptors_->is_of_untrusted();
    return receive_memory(take_descriptor(), size, untrusted ? Sender::untrusted : Sender::trusted);
  }
  /// All shared memory of the message together may have so many bytes.
  void limit_shared(std::size_t most) noexcept { most_shared_ = most; }

  [[noreturn]] static void mismatch(const char* wanted, Kind found) {
    decode_failed(std::string("expected ") + wanted + ", found " + describe(found));
  }

  void enter(std::size_t size) {
    stack_ += size;
    if (++depth_ > max_depth) decode_failed("value nested more than " + std::to_string(max_depth) + " deep");
    if (stack_ > max_stack && depth_ > depth_of_any_size)
      decode_failed("structs nested in each other that together take more than " + std::to_string(max_stack) +
                    " bytes of stack");
  }
  void leave(std::size_t size) noexcept {
    --depth_;
    stack_ -= size;
  }

  DecodeBudget& budget() noexcept { return budget_; }

 private:
  const std::byte* at_;
  const std::byte* end_;
  unsigned depth_ = 0;
  std::size_t stack_ = 0;
  DescriptorList* descriptors_;  // null: there are none
  DecodeBudget budget_;
  std::size_t most_shared_ = SIZE_MAX;
};

/// Gives drover's own codecs access to the raw coder of an Encoder or Decoder.
struct Raw {
  template <class Coder>
  static auto& of(Coder& coder) noexcept {
    return coder.raw_;
  }
};

/// One level of nesting: a T within another value, which may be a T too.
template <class T, class RawCoder>
class Level {
 public:
  explicit Level(RawCoder& coder) : coder_(coder) { coder_.enter(sizeof(T)); }
  ~Level() { coder_.leave(sizeof(T)); }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  RawCoder& coder_;
};

}}}  // namespace drover::v1::detail
