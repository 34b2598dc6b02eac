#pragma once

#include <cstdint>
#include <memory>
#include <semaphore>
#include <stdexcept>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <drover/os/detail/reaper_thread.hpp>
#include <drover/os/fd.hpp>
#include <drover/timeout.hpp>

namespace support {

/// While this object lives the reaper thread does nothing else.
class BusyReaper {
 public:
  BusyReaper() : id_(reaper().add(work_)) {
    if (reaper().watch(bell_.get(), id_, 0, EPOLLIN | EPOLLONESHOT) != 0) throw std::runtime_error("epoll_ctl");
    work_->begun.acquire();
  }
  ~BusyReaper() {
    reaper().unwatch(bell_.get());
    reaper().remove(id_);
    work_->over.release();
  }
  BusyReaper(const BusyReaper&) = delete;
  BusyReaper& operator=(const BusyReaper&) = delete;

 private:
  struct Work final : drover::detail::ReaperClient {
    void on_event(unsigned) noexcept override {
      begun.release();
      over.acquire();
    }
    void on_time() noexcept override {}
    drover::Clock::time_point at_exit() noexcept override { return drover::Clock::now(); }
    std::binary_semaphore begun{0}, over{0};
  };
  static drover::detail::ReaperThread& reaper() { return drover::detail::ReaperThread::get(); }

  const std::shared_ptr<Work> work_ = std::make_shared<Work>();
  const drover::UniqueFd bell_{::eventfd(1, EFD_CLOEXEC)};
  const std::uint64_t id_;
};

}  // namespace support
