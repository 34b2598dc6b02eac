#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>

#include <drover/os/detail/descriptor_list.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/buffer.hpp>
#include <drover/wire/detail/codec_cursor.hpp>

/// How values are sent: arguments to routines, and their results.
///
/// Built-in types are bool, integers (also of 128 bits), floating point, std::complex and enums; strings, string views,
/// literals and paths; bytes (containers and spans of std::byte); containers (sequences, sets, maps, std::array,
/// std::bitset); optional, variant, pair, tuple; unique_ptr and shared_ptr, as optional values; chrono durations, time
/// points of the system and the steady clock and local ones, dates with their parts, times of day (hh_mm_ss);
/// std::error_code (see drover/wire/error_category.hpp); descriptors (drover::UniqueFd); shared memory
/// (drover::Shared); and types with the members of a protobuf message. Values may be nested in any way, and may be
/// move-only.
///
/// **Structs of your own** with up to 32 members need nothing, if they are aggregates: no constructor, no private
/// members, no base classes, and all members default-constructible. A member may be an array or a bit-field. Any other
/// struct, and one of which not all members are to be sent, needs one function, found by argument-dependent lookup:
///
///     class Point { ... int x_ = 0, y_ = 0; friend auto drover_fields(Point& p) { return std::tie(p.x_, p.y_); } };
///
/// It must be default-constructible to be decoded. If the function is a template, constrain it to your types: it is
/// tried with others, too. For everything else specialise drover::Codec.
///
/// A pointer to nothing is sent as an empty optional. A value that several shared_ptr point to is sent once for each of
/// them, and arrives as several values. A date need not exist: February 30 arrives as it is.
///
/// **A message describes its values, so that a wrong type is an error and never a wrong value.** Decoding converts
/// where C++ itself would convert without loss: integers and floating-point numbers of any width, if the exact value
/// fits; an integer to a floating-point number; a sequence of numbers to one of another element type or container;
/// durations between units; a value to an optional or a smart pointer; text to bytes. It converts nothing else: no
/// number to a bool or text, no floating-point number to an integer, no tuple to one of another length.
///
/// A field char[N] is decoded exactly as it was, whatever its content, and accepts text of up to N characters. It is
/// sent as the text before its first NUL. If anything but zeros follows that NUL, it is sent as N bytes, which no
/// string accepts. The same applies to literals: send text that contains a NUL as a std::string_view.
///
/// Decoding trusts nothing. Every length is checked against the received bytes. The memory for the values of a message
/// is bounded, and counted before it is allocated: 48 bytes for each byte of the message, and 16 MiB more. Containers
/// of numbers and strings never need more (but an empty std::deque takes 600 bytes in libstdc++). A long sequence of
/// large optionals that are nearly all empty does: use unique_ptr or a map instead, or raise
/// WorkerOptions::max_message_size, since arguments and results may take a quarter of that if it is more than the 16
/// MiB. The steps of insertions into unordered containers are bounded likewise, so that colliding keys are an error.
/// Memory that a Codec of yours allocates itself is not counted, nor is that of a message that parses itself.
///
/// **Descriptors.** A drover::UniqueFd, also within other values, is sent as a descriptor of the same open file
/// (SCM_RIGHTS in unix(7)), close-on-exec; both sides share its offset and its status flags. One that is passed as an
/// rvalue (or within an rvalue) is moved: it is lost even if the call fails, and drover closes it soon after the call
/// has ended, since until then the call may have to be sent again. Any other one is duplicated and stays the caller's:
/// what a broadcast sends to several workers, and what is within a const value, could not be moved. A UniqueFd that is
/// empty cannot be sent: std::optional<drover::UniqueFd> says that there may be none. Arguments, and a result, have at
/// most 64 descriptors. A Codec of yours that sends descriptors says so, because they are received only where they are
/// expected: `static constexpr bool carries_descriptors = true;`.
///
/// What a worker sends is an open file of its choice. Reading, writing or closing it may block for as long as the
/// worker likes, unless you know better.
///
/// **Shared memory.** A drover::Shared (see drover/wire/shared.hpp) is sent as a descriptor, too, one of those 64, and
/// where no UniqueFd can be sent it cannot be sent either.
///
/// Structs may be nested 256 deep, as in a tree, whatever containers are between them; large structs as long as they
/// take no more than 2 MiB together.
namespace drover { inline namespace v1 {

class Encoder;
class Decoder;

/// A message is truncated, malformed, or not of the expected type. what() states what was expected and what was found.
class DecodeError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Specialise it for a type to define how the type is sent. A specialisation precedes everything built in.
///
///     template <> struct drover::Codec<Matrix> {
///       static void encode(drover::Encoder& out, const Matrix& m) { out.put(m.rows()); out.put(m.cells()); }
///       static Matrix decode(drover::Decoder& in) { auto rows = in.get<int>(); return Matrix(rows, in.get<Cells>()); }
///     };
///
/// decode() must read what encode() has written, in that order. Read the parts into variables first, as above, because
/// the order in which arguments of a call are evaluated is not defined.
template <class T>
struct Codec;

/// Appends values to a buffer.
/// *Threads:* one at a time.
class Encoder {
 public:
  /// *Lifetime:* the buffer must outlive the encoder.
  explicit Encoder(detail::ByteBuffer& out) noexcept : raw_(out) {}
  /// The same for the arguments or the result of a call, which may have descriptors.
  explicit Encoder(detail::FrameBody& message) noexcept : raw_(message.buffer(), &message) {}

  /// Appends a value.
  /// *Errors:* std::invalid_argument for a value that cannot be sent (a null char pointer, a message that cannot be
  /// serialised, a valueless variant, an empty UniqueFd, more than 64 descriptors); std::system_error if a UniqueFd is
  /// not open (EBADF) or cannot be duplicated (EMFILE); std::length_error for structs nested more than 256 deep. The
  /// buffer then holds a part of the value.
  template <class T>
  void put(const T& value);

 private:
  friend struct detail::Raw;
  detail::RawEncoder raw_;
};

/// Takes values from the bytes of a message, in the order in which they were put.
/// *Threads:* one at a time.
class Decoder {
 public:
  /// All values together may take 48 bytes of memory for each byte of the message, and `spare_memory` bytes more.
  /// *Lifetime:* the bytes must outlive the decoder, and all values that were decoded as views.
  explicit Decoder(std::span<const std::byte> bytes, std::size_t spare_memory = detail::usual_spare_memory) noexcept
      : raw_(bytes, spare_memory) {}
  /// The same for a message that came with descriptors.
  /// *Lifetime:* the list must outlive the decoder.
  Decoder(std::span<const std::byte> bytes, detail::DescriptorList& descriptors, std::size_t spare_memory) noexcept
      : raw_(bytes, spare_memory, &descriptors) {}

  /// Shared memory of the message may have so many bytes in all.
  void limit_shared(std::size_t most) noexcept { raw_.limit_shared(most); }

  /// Takes the next value.
  /// *Errors:* DecodeError, after which nothing more can be taken; std::system_error (EMFILE) if this process had no room
  /// for its descriptors.
  /// *Lifetime:* std::string_view and std::span<const std::byte> refer to the message itself. As a routine's parameters
  /// they are valid until the routine has ended.
  template <class T>
  T get();

  /// True if no value is left.
  bool at_end() const noexcept { return raw_.remaining() == 0; }

  /// Checks that no value and no descriptor is left.
  /// *Errors:* DecodeError if one is.
  void finish() const { raw_.finish(); }

 private:
  friend struct detail::Raw;
  detail::RawDecoder raw_;
};

}}  // namespace drover::v1

#include <drover/wire/detail/codec_aggregate.hpp>
#include <drover/wire/detail/codec_calendar.hpp>
#include <drover/wire/detail/codec_chrono.hpp>
#include <drover/wire/detail/codec_compound.hpp>
#include <drover/wire/detail/codec_container.hpp>
#include <drover/wire/detail/codec_descriptor.hpp>
#include <drover/wire/detail/codec_doors.hpp>
#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/detail/codec_number.hpp>
#include <drover/wire/detail/codec_shared.hpp>
#include <drover/wire/detail/codec_std.hpp>
#include <drover/wire/detail/codec_text.hpp>
#include <drover/wire/detail/codec_wide.hpp>
