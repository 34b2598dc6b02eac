#pragma once

#include <memory>
#include <new>
#include <utility>

namespace drover { inline namespace v1 { namespace detail {

/// A member of an options type that may be initialised in braces inside a `co_await` expression.
///
/// In such an expression GCC 12 constructs each member of a braced aggregate separately, copies it bytewise into the
/// aggregate, and destroys both. So a BraceSafe remembers the address at which it was constructed. A bytewise copy has
/// another address: when it is copied or moved from, it reads the original, which lives until the end of the full
/// expression, and its destructor frees nothing. In all other cases a BraceSafe is a T.
///
/// *Rule:* a function that takes options by value or reference copies or moves them before it reads a member directly.
template <class T>
class BraceSafe : public T {
 public:
  using T::T;
  using T::operator=;

  BraceSafe() = default;
  BraceSafe(const T& value) : T(value) {}
  BraceSafe(T&& value) noexcept : T(std::move(value)) {}
  BraceSafe(const BraceSafe& other) : T(other.value()) {}
  BraceSafe(BraceSafe&& other) : T(other.is_object() ? T(std::move(static_cast<T&>(other))) : T(other.value())) {}
  BraceSafe& operator=(const BraceSafe& other) {
    T::operator=(other.value());
    return *this;
  }
  BraceSafe& operator=(BraceSafe&& other) {
    if (other.is_object())
      T::operator=(std::move(static_cast<T&>(other)));
    else
      T::operator=(other.value());
    return *this;
  }
  ~BraceSafe() {
    if (!is_object()) ::new (static_cast<void*>(static_cast<T*>(this))) T();
  }

  /// The value: of this object, or of the original if this object is a bytewise copy.
  const T& value() const noexcept { return *constructed_at_; }

 private:
  bool is_object() const noexcept { return constructed_at_ == this; }

  const BraceSafe* constructed_at_ = this;
};

}}}  // namespace drover::v1::detail
