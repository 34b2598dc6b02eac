#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>

#include <drover/wire/detail/codec_chrono.hpp>
#include <drover/wire/detail/codec_form.hpp>

/// Dates, their parts, and times of day. A date need not exist: what is not ok() is sent as it is.
namespace drover { inline namespace v1 { namespace detail {

/// The byte that distinguishes the types of the calendar in a message.
template <class T>
consteval std::uint8_t calendar_id() {
  using namespace std::chrono;
  constexpr auto index_in = []<class... Types>(std::type_identity<std::tuple<Types...>>) {
    std::uint8_t index = 0;
    static_cast<void>((... || (++index, std::is_same_v<T, Types>)));
    return index;
  };
  return index_in(std::type_identity<CalendarTypes>());
}
inline constexpr std::uint8_t time_of_day_id = 100;

/// Writes the parts of a date.
class CalendarWriter {
 public:
  explicit CalendarWriter(RawEncoder& out) noexcept : out_(out) {}

  void put(std::chrono::day part) { put_byte(static_cast<unsigned>(part)); }
  void put(std::chrono::month part) { put_byte(static_cast<unsigned>(part)); }
  void put(std::chrono::year part) { out_.fixed(static_cast<std::int16_t>(static_cast<int>(part))); }
  void put(std::chrono::weekday part) { put_byte(part.c_encoding()); }
  void put(std::chrono::weekday_indexed part) {
    put(part.weekday());
    put_byte(part.index());
  }
  void put(std::chrono::weekday_last part) { put(part.weekday()); }
  void put(std::chrono::month_day part) { put_all(part.month(), part.day()); }
  void put(std::chrono::month_day_last part) { put(part.month()); }
  void put(std::chrono::month_weekday part) { put_all(part.month(), part.weekday_indexed()); }
  void put(std::chrono::month_weekday_last part) { put_all(part.month(), part.weekday_last()); }
  void put(std::chrono::year_month part) { put_all(part.year(), part.month()); }
  void put(std::chrono::year_month_day part) { put_all(part.year(), part.month(), part.day()); }
  void put(std::chrono::year_month_day_last part) { put_all(part.year(), part.month()); }
  void put(std::chrono::year_month_weekday part) { put_all(part.year(), part.month(), part.weekday_indexed()); }
  void put(std::chrono::year_month_weekday_last part) { put_all(part.year(), part.month(), part.weekday_last()); }

 private:
  void put_byte(unsigned value) { out_.fixed(static_cast<std::uint8_t>(value)); }
  template <class... Parts>
  void put_all(Parts... parts) {
    (put(parts), ...);
  }

  RawEncoder& out_;
};

/// The types from which a compound date is constructed, in the order in which CalendarWriter puts them.
template <class T>
struct CalendarParts;
template <>
struct CalendarParts<std::chrono::weekday_last> : std::type_identity<std::tuple<std::chrono::weekday>> {};
template <>
struct CalendarParts<std::chrono::month_day> : std::type_identity<std::tuple<std::chrono::month, std::chrono::day>> {};
template <>
struct CalendarParts<std::chrono::month_day_last> : std::type_identity<std::tuple<std::chrono::month>> {};
template <>
struct CalendarParts<std::chrono::month_weekday>
    : std::type_identity<std::tuple<std::chrono::month, std::chrono::weekday_indexed>> {};
template <>
struct CalendarParts<std::chrono::month_weekday_last>
    : std::type_identity<std::tuple<std::chrono::month, std::chrono::weekday_last>> {};
template <>
struct CalendarParts<std::chrono::year_month> : std::type_identity<std::tuple<std::chrono::year, std::chrono::month>> {
};
template <>
struct CalendarParts<std::chrono::year_month_day>
    : std::type_identity<std::tuple<std::chrono::year, std::chrono::month, std::chrono::day>> {};
template <>
struct CalendarParts<std::chrono::year_month_day_last>
    : std::type_identity<std::tuple<std::chrono::year, std::chrono::month_day_last>> {};
template <>
struct CalendarParts<std::chrono::year_month_weekday>
    : std::type_identity<std::tuple<std::chrono::year, std::chrono::month, std::chrono::weekday_indexed>> {};
template <>
struct CalendarParts<std::chrono::year_month_weekday_last>
    : std::type_identity<std::tuple<std::chrono::year, std::chrono::month, std::chrono::weekday_last>> {};

/// Takes a date. Every number is one for which the constructor of the part is defined.
template <class T>
T take_date(RawDecoder& in) {
  using namespace std::chrono;
  if constexpr (is_one_of<T, day, month, weekday>) {
    return T(in.fixed<std::uint8_t>());
  } else if constexpr (std::is_same_v<T, year>) {
    const auto number = in.fixed<std::int16_t>();
    if (number < static_cast<int>(year::min())) decode_failed("a year before -32767");
    return T(number);
  } else if constexpr (std::is_same_v<T, weekday_indexed>) {
    const auto of_week = detail::take_date<weekday>(in);
    const unsigned index = in.fixed<std::uint8_t>();
    if (index > 7) decode_failed("the weekday number " + std::to_string(index) + " of a month");
    return T(of_week, index);
  } else {
    return [&in]<class... Parts>(std::type_identity<std::tuple<Parts...>>) {
      return T{detail::take_date<Parts>(in)...};  // braces evaluate from left to right
    }(std::type_identity<typename CalendarParts<T>::type>());
  }
}

template <class T>
struct Wire<T, Form::calendar> {
  static void encode(Encoder& out, const T& value) {
    Raw::of(out).tagged(Kind::calendar, calendar_id<T>());
    CalendarWriter(Raw::of(out)).put(value);
  }

  static T decode(Decoder& in) {
    RawDecoder& raw = Raw::of(in);
    raw.expect(Kind::calendar);
    if (raw.template fixed<std::uint8_t>() != calendar_id<T>()) decode_failed("a date of another type");
    return detail::take_date<T>(raw);
  }
};

template <class Duration>
struct Wire<std::chrono::hh_mm_ss<Duration>, Form::calendar> {
  using TimeOfDay = std::chrono::hh_mm_ss<Duration>;
  using Precision = typename TimeOfDay::precision;
  static_assert(std::is_integral_v<typename Precision::rep>, "drover sends times of day in whole numbers only.");

  static void encode(Encoder& out, const TimeOfDay& value) {
    Raw::of(out).tagged(Kind::calendar, time_of_day_id);
    out.put(value.to_duration());
  }

  static TimeOfDay decode(Decoder& in) {
    Raw::of(in).expect(Kind::calendar);
    if (Raw::of(in).template fixed<std::uint8_t>() != time_of_day_id) decode_failed("a date, and not a time of day");
    const auto time = in.get<Precision>();
    if (time < -Precision::max()) decode_failed("a time of day that is too long");  // it has no absolute value
    return TimeOfDay(std::chrono::duration_cast<Duration>(time));
  }
};

}}}  // namespace drover::v1::detail
