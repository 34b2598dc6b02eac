#pragma once

#include <cstddef>
#include <fcntl.h>
#include <memory>
#include <unistd.h>

#include <asio/basic_waitable_timer.hpp>
#include <asio/execution_context.hpp>
#include <asio/io_context.hpp>
#include <asio/strand.hpp>

#include <drover/detail/context/executor.hpp>
#include <drover/detail/context/registry.hpp>
#include <drover/detail/keep_loaded.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

class ContextRegistry::Service : public asio::execution_context::service {
 public:
  inline static asio::execution_context::id id;

  explicit Service(asio::execution_context& context)
      : service(after_asio(context)), registry_(std::make_shared<ContextRegistry>()) {
    keep_library_loaded();
  }

  const std::shared_ptr<ContextRegistry>& registry() const noexcept { return registry_; }

 private:
  /// Services are shut down in the reverse order of their creation. Asio's timer service must not be used from other
  /// threads during its shutdown, and its strand service must not be used after it. So both are created first and shut
  /// down last. A context that is not one of Asio's gets no services that it has not asked for.
  static asio::execution_context& after_asio(asio::execution_context& context) {
    if (!asio::has_service<asio::detail::io_context_impl>(context)) return context;
    const ContextExecutor here(context);
    const asio::strand<ContextExecutor> strand(here);
    // Asio's reactor takes up to four descriptors; if they run out half-way, it leaks the first ones.
    if (descriptors_left(4))
      const asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, ContextExecutor> timer(here);
    return context;
  }

  static bool descriptors_left(std::size_t count) noexcept {
    if (count == 0) return true;
    const int fd = ::open("/", O_PATH | O_CLOEXEC);
    if (fd < 0) return false;
    const bool left = descriptors_left(count - 1);
    ::close(fd);
    return left;
  }

  void shutdown() noexcept override { registry_->shut_down(); }

  std::shared_ptr<ContextRegistry> registry_;
};

DROVER_INLINE std::shared_ptr<ContextRegistry> ContextRegistry::of(asio::execution_context& context) {
  return asio::use_service<Service>(context).registry();
}

}}}  // namespace drover::v1::detail
