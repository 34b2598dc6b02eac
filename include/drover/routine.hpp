#pragma once

#include <drover/detail/platform.hpp>

#include <string_view>
#include <type_traits>

namespace drover { inline namespace v1 {

template <class T>
class Sink;
template <class T>
class Source;

namespace detail {

/// A drover::Sink or a drover::Source, by which a routine sends or takes items.
template <class T>
inline constexpr bool is_for_items = false;
template <class T>
inline constexpr bool is_for_items<Sink<T>> = true;
template <class T>
inline constexpr bool is_for_items<Source<T>> = true;

}  // namespace detail

/// The name of a routine together with its type, in a header that both sides include:
///
///     inline constexpr drover::Routine<int(std::string)> word_count{"word_count"};
///
/// The worker adds a function to it, and the parent calls it:
///
///     routines.add(word_count, [](const std::string& text) { ... return words; });
///
///     int words = co_await pool.call(word_count, "two words");
///
/// A Sink and a Source are declared as references. Their routine is called by stream():
///
///     inline constexpr drover::Routine<std::uint64_t(std::string, drover::Sink<Match>&)> grep{"grep"};
///
///     drover::Stream<std::uint64_t, Match> found = pool.stream(grep, "pattern");
///
/// A wrong number of arguments, arguments that do not convert to the parameters, and a function with other parameters
/// or another result do not compile. If the worker's program declares the routine otherwise, so that it cannot decode
/// the arguments or the caller the result, the call fails with Errc::bad_arguments, whose text has both types.
///
/// **Arguments** convert as in a call of a function, except that a number is never cut: a floating-point number is no
/// argument for an integer, nor a bool for a number, and an integer that the parameter cannot hold is
/// Errc::bad_arguments. Any text is an argument for a text (std::string, std::string_view, std::filesystem::path), and
/// any bytes are for bytes, without a conversion; borrow() for both. Parameters are declared as values or const
/// references, which are the same here, and without std::stop_token.
template <class Signature>
class Routine {
  static_assert(!sizeof(std::type_identity<Signature>),
                "drover::Routine needs the type of a function, without noexcept: drover::Routine<int(std::string)>");
};

template <class Result, class... Parameters>
class Routine<Result(Parameters...)> {
  static_assert(!std::is_reference_v<Result> && !std::is_const_v<Result>,
                "the result of a drover::Routine is a value: leave out const and &");
  static_assert((... &&
                 (!std::is_lvalue_reference_v<Parameters> || std::is_const_v<std::remove_reference_t<Parameters>> ||
                  detail::is_for_items<std::decay_t<Parameters>>)),
                "a drover::Routine has no parameters that are references, except to const, to a drover::Sink and to a "
                "drover::Source: a worker cannot change an argument");

 public:
  /// *Lifetime:* the characters must live as long as the routine is used, as a literal does.
  constexpr explicit Routine(std::string_view name) noexcept : name_(name) {}

  constexpr std::string_view name() const noexcept { return name_; }

 private:
  std::string_view name_;
};

}}  // namespace drover::v1
