#pragma once

#include <cstddef>
#include <ios>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <asio/error.hpp>

#include <drover/error.hpp>
#include <drover/wire/error_category.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Stands for a category that this program does not know.
class NamedCategory final : public std::error_category {
 public:
  explicit NamedCategory(std::string_view name) : name_(name) {}

  const char* name() const noexcept override { return name_.c_str(); }
  std::string message(int value) const override {
    return "error " + std::to_string(value) + " of the category \"" + name_ + "\", which this program does not know";
  }

 private:
  std::string name_;
};

/// The categories in which error codes arrive. Never destroyed, as categories must not be.
class ErrorCategories {
 public:
  static ErrorCategories& instance() {
    static ErrorCategories& categories = *new ErrorCategories;
    return categories;
  }

  void add(const std::error_category& category) {
    const std::lock_guard held(mutex_);
    const std::error_category* const known = find(category.name());
    if (known == &category) return;
    if (known != nullptr)
      throw std::invalid_argument(std::string("there is an error category named \"") + category.name() + "\" already");
    known_.push_back(&category);
  }

  const std::error_category& named(std::string_view name) {
    const std::lock_guard held(mutex_);
    if (const std::error_category* const known = find(name)) return *known;
    for (const auto& other : others_)
      if (other->name() == name) return *other;
    // A hostile sender could think of any number of names.
    if (others_.size() == most_others || name.size() > longest_name) return unknown_;
    others_.push_back(std::make_unique<NamedCategory>(name));
    return *others_.back();
  }

 private:
  static constexpr std::size_t most_others = 64, longest_name = 256;

  const std::error_category* find(std::string_view name) const {
    for (const std::error_category* category : known_)
      if (category->name() == name) return category;
    return nullptr;
  }

  std::mutex mutex_;
  std::vector<const std::error_category*> known_{&std::generic_category(),
                                                 &std::system_category(),
                                                 &std::iostream_category(),
                                                 &error_category(),
                                                 &asio::error::get_system_category(),
                                                 &asio::error::get_misc_category(),
                                                 &asio::error::get_netdb_category(),
                                                 &asio::error::get_addrinfo_category()};
  std::vector<std::unique_ptr<const NamedCategory>> others_;
  NamedCategory unknown_{"unknown"};
};

DROVER_INLINE const std::error_category& category_of_name(std::string_view name) {
  return ErrorCategories::instance().named(name);
}

}}}  // namespace drover::v1::detail

namespace drover { inline namespace v1 {

DROVER_INLINE void add_error_category(const std::error_category& category) {
  detail::ErrorCategories::instance().add(category);
}

}}  // namespace drover::v1
