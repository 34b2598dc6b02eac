#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>

/// The members of an aggregate, found without its help: how many it has, and each of them by a structured binding.
namespace drover { inline namespace v1 { namespace detail {

/// Members of an aggregate that is sent without drover_fields(), at most.
inline constexpr std::size_t most_members = 32;

/// Accepted as the initialiser of any type that can be copied or moved, but not of an array.
struct Anything {
  template <class U>
  operator U() const;
};

// clang-format off
/// T can be initialised by `Count` empty pairs of braces, and then by one of each Last. Unlike any other initialiser, {}
/// initialises exactly one member, also where that is an array or an aggregate.
template <class T, std::size_t Count, class... Last>
consteval bool takes_braces() {
#define DROVER_BRACES_0
#define DROVER_BRACES_4 DROVER_BRACES_0 {}, {}, {}, {},
#define DROVER_BRACES_8 DROVER_BRACES_4 {}, {}, {}, {},
#define DROVER_BRACES_12 DROVER_BRACES_8 {}, {}, {}, {},
#define DROVER_BRACES_16 DROVER_BRACES_12 {}, {}, {}, {},
#define DROVER_BRACES_20 DROVER_BRACES_16 {}, {}, {}, {},
#define DROVER_BRACES_24 DROVER_BRACES_20 {}, {}, {}, {},
#define DROVER_BRACES_28 DROVER_BRACES_24 {}, {}, {}, {},
#define DROVER_BRACES_32 DROVER_BRACES_28 {}, {}, {}, {},
#define DROVER_COUNTS(from)                                                                                        \
  if constexpr (Count == from) return requires { T{DROVER_BRACES_##from Last()...}; };                                 \
  else if constexpr (Count == from + 1) return requires { T{DROVER_BRACES_##from {}, Last()...}; };                    \
  else if constexpr (Count == from + 2) return requires { T{DROVER_BRACES_##from {}, {}, Last()...}; };                \
  else if constexpr (Count == from + 3) return requires { T{DROVER_BRACES_##from {}, {}, {}, Last()...}; };
  DROVER_COUNTS(0)
  else DROVER_COUNTS(4)
  else DROVER_COUNTS(8)
  else DROVER_COUNTS(12)
  else DROVER_COUNTS(16)
  else DROVER_COUNTS(20)
  else DROVER_COUNTS(24)
  else DROVER_COUNTS(28)
  else DROVER_COUNTS(32)
#undef DROVER_COUNTS
#undef DROVER_BRACES_0
#undef DROVER_BRACES_4
#undef DROVER_BRACES_8
#undef DROVER_BRACES_12
#undef DROVER_BRACES_16
#undef DROVER_BRACES_20
#undef DROVER_BRACES_24
#undef DROVER_BRACES_28
#undef DROVER_BRACES_32
}
// clang-format on

/// How many members an aggregate has that takes `Low` pairs of braces; bases count as members. most_members + 1 stands
/// for any larger number.
template <class T, std::size_t Low = 0, std::size_t High = most_members + 1>
consteval std::size_t count_members() {
  if constexpr (Low == High) {
    return Low;
  } else {
    constexpr std::size_t middle = (Low + High + 1) / 2;
    if constexpr (takes_braces<T, middle>())
      return count_members<T, middle, High>();
    else
      return count_members<T, Low, middle - 1>();
  }
}

/// Converts to the base classes of T only.
template <class T>
struct OnlyABase {
  template <class U>
    requires(std::is_base_of_v<U, T> && !std::same_as<U, T>)
  operator U() const;
};
struct Unconvertible {};

/// The first thing that an aggregate initialises is a base class, and not a member that takes everything.
template <class T>
concept HasBaseClass = requires { T{OnlyABase<T>()}; } && !requires { T{Unconvertible()}; };

/// Why the members of a type cannot be found.
enum class Obstacle { none, no_aggregate, base_class, no_default, too_many };

template <class T>
consteval Obstacle obstacle_of() {
  if constexpr (!requires { sizeof(T); } || !std::is_class_v<T>)
    return Obstacle::no_aggregate;
  else if constexpr (!std::is_aggregate_v<T> || requires { std::tuple_size<T>::value; })  // bound by get() then
    return Obstacle::no_aggregate;
  else if constexpr (HasBaseClass<T>)
    return Obstacle::base_class;
  else if constexpr (!takes_braces<T, 0>())
    return Obstacle::no_default;
  else if constexpr (constexpr std::size_t count = count_members<T>(); count > most_members)
    return Obstacle::too_many;
  else if constexpr (takes_braces<T, count, Anything>())
    return Obstacle::no_default;  // the member behind those that were counted
  else
    return Obstacle::none;
}

// clang-format off
/// Calls visit(member...) with references to the members of an aggregate without an obstacle, and returns its result. If
/// T is not const, and one of the members is a bit-field, which no such reference can be bound to, calls
/// visit.with_copies(member...).
template <class T, class Visit>
auto visit_members([[maybe_unused]] T& aggregate, Visit visit) {
  constexpr std::size_t count = count_members<std::remove_const_t<T>>();
#define DROVER_NAMES_0
#define DROVER_NAMES_4 DROVER_NAMES_0 m1, m2, m3, m4,
#define DROVER_NAMES_8 DROVER_NAMES_4 m5, m6, m7, m8,
#define DROVER_NAMES_12 DROVER_NAMES_8 m9, m10, m11, m12,
#define DROVER_NAMES_16 DROVER_NAMES_12 m13, m14, m15, m16,
#define DROVER_NAMES_20 DROVER_NAMES_16 m17, m18, m19, m20,
#define DROVER_NAMES_24 DROVER_NAMES_20 m21, m22, m23, m24,
#define DROVER_NAMES_28 DROVER_NAMES_24 m25, m26, m27, m28,
#define DROVER_NAMES_32 DROVER_NAMES_28 m29, m30, m31, m32,
#define DROVER_VISIT(...)                                                                                          \
  auto& [__VA_ARGS__] = aggregate;                                                                                     \
  if constexpr (requires { visit(__VA_ARGS__); }) return visit(__VA_ARGS__);                                           \
  else return visit.with_copies(__VA_ARGS__);
#define DROVER_MEMBERS(from)                                                                                       \
  else if constexpr (count == from + 1) { DROVER_VISIT(DROVER_NAMES_##from a) }                                        \
  else if constexpr (count == from + 2) { DROVER_VISIT(DROVER_NAMES_##from a, b) }                                     \
  else if constexpr (count == from + 3) { DROVER_VISIT(DROVER_NAMES_##from a, b, c) }                                  \
  else if constexpr (count == from + 4) { DROVER_VISIT(DROVER_NAMES_##from a, b, c, d) }
  if constexpr (count == 0) return visit();
  DROVER_MEMBERS(0)
  DROVER_MEMBERS(4)
  DROVER_MEMBERS(8)
  DROVER_MEMBERS(12)
  DROVER_MEMBERS(16)
  DROVER_MEMBERS(20)
  DROVER_MEMBERS(24)
  DROVER_MEMBERS(28)
#undef DROVER_MEMBERS
#undef DROVER_VISIT
#undef DROVER_NAMES_0
#undef DROVER_NAMES_4
#undef DROVER_NAMES_8
#undef DROVER_NAMES_12
#undef DROVER_NAMES_16
#undef DROVER_NAMES_20
#undef DROVER_NAMES_24
#undef DROVER_NAMES_28
#undef DROVER_NAMES_32
}
// clang-format on

}}}  // namespace drover::v1::detail
