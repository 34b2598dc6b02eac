#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>

#include <drover/wire/buffer.hpp>
#include <drover/wire/detail/codec_cursor.hpp>

/// How values travel: arguments to routines, and their results.
///
/// Built in are bool, integers, floating point and enums; strings, string views, literals and paths; bytes
/// (containers and spans of std::byte); containers (sequences, sets, maps, std::array); optional, variant, pair, tuple,
/// unique_ptr; chrono durations and time points of the system and the steady clock; and types that look like protobuf's
/// messages. Values may be nested in any way, and may be move-only.
///
/// A struct of your own takes one function, found by argument-dependent lookup:
///
///     struct Point { int x, y; };
///     auto drover_fields(Point& p) { return std::tie(p.x, p.y); }
///
/// It must be default-constructible to be decoded. Constrain it to your types if it is a template: it is tried with
/// others, too. For all else specialise drover::Codec.
///
/// **What is sent is described in the message, so that a wrong type is an error and never a wrong value.** Where C++
/// itself would convert without loss, so does decoding: integers and floating-point numbers of any width, if the very
/// value fits; an integer where a floating-point number is wanted; a sequence of numbers into one of another element
/// type or container; durations between units; a value where an optional is wanted; text where bytes are wanted.
/// Nothing else: no number is a bool or text, no float an integer, no tuple one of another length.
///
/// A field char[N] comes back as it was, whatever is in it, and takes text of up to N characters. It travels as the
/// text before its first NUL; or, where more than zeros follows that, as N bytes, which no string takes. Literals do
/// the same: send text that has a NUL in it as a std::string_view.
///
/// Decoding trusts nothing. Every length is checked against what has been received. The memory that the values of a
/// message take is bounded and counted before it is allocated: 48 bytes for each byte of the message, and 16 MiB more.
/// Containers of numbers and strings never need more (but a std::deque takes 600 bytes when it is empty, as libstdc++
/// has it). A long sequence of large optionals that are nearly all empty does: use unique_ptr or a map instead, or
/// raise WorkerOptions::max_message_size, since arguments and results may take a quarter of that where it is more than
/// the 16 MiB. The steps that insertions into unordered containers take are bounded likewise, so that colliding keys
/// are an error. What a Codec of yours allocates on its own is not counted, nor what a message does that parses itself.
///
/// Structs may be nested 256 deep in each other, as in a tree, whatever containers lie between them; large ones as far
/// as they take 2 MiB together.
namespace drover { inline namespace v1 {

class Encoder;
class Decoder;

/// A message that is cut off, malformed, or not of the wanted type. what() tells what was expected and what was found.
class DecodeError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Specialise it for a type to say how it travels; this comes before everything that is built in.
///
///     template <> struct drover::Codec<Matrix> {
///       static void encode(drover::Encoder& out, const Matrix& m) { out.put(m.rows()); out.put(m.cells()); }
///       static Matrix decode(drover::Decoder& in) { auto rows = in.get<int>(); return Matrix(rows, in.get<Cells>()); }
///     };
///
/// decode() must read what encode() has written, in that order (name the parts first, as above: the order in which
/// arguments of a call are evaluated is not defined).
template <class T>
struct Codec;

/// Appends values to a buffer. One thread at a time.
class Encoder {
 public:
  /// The buffer must outlive the encoder.
  explicit Encoder(detail::ByteBuffer& out) noexcept : raw_(out) {}

  /// Appends a value. Throws std::invalid_argument for what can't travel (a null char pointer, a message that can't be
  /// serialised, a valueless variant) and std::length_error for structs nested more than 256 deep; the buffer then
  /// holds a part of the value.
  template <class T>
  void put(const T& value);

 private:
  friend struct detail::Raw;
  detail::RawEncoder raw_;
};

/// Takes values from the bytes of a message, in the order in which they were put. One thread at a time.
class Decoder {
 public:
  /// The bytes must outlive the decoder, and what is decoded as a view. All values together may take 48 bytes of memory
  /// for each of these, and `spare_memory` bytes more.
  explicit Decoder(std::span<const std::byte> bytes, std::size_t spare_memory = detail::usual_spare_memory) noexcept
      : raw_(bytes, spare_memory) {}

  /// Takes a value. Throws DecodeError, after which nothing more can be taken. std::string_view and
  /// std::span<const std::byte> refer to the message itself: as a routine's parameters they are valid until the routine
  /// has ended.
  template <class T>
  T get();

  /// No value is left.
  bool at_end() const noexcept { return raw_.remaining() == 0; }

  /// Throws DecodeError if a value is left.
  void finish() const { raw_.finish(); }

 private:
  friend struct detail::Raw;
  detail::RawDecoder raw_;
};

}}  // namespace drover::v1

#include <drover/wire/detail/codec_chrono.hpp>
#include <drover/wire/detail/codec_compound.hpp>
#include <drover/wire/detail/codec_container.hpp>
#include <drover/wire/detail/codec_doors.hpp>
#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/detail/codec_number.hpp>
#include <drover/wire/detail/codec_text.hpp>
