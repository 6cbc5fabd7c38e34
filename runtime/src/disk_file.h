// A file for measuring a disk. disk_file_posix.cpp and disk_file_windows.cpp implement it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace n730::platform {

class DiskFile {
  public:
    enum class Kind { TEMPORARY, EXISTING };
    // TEMPORARY: a new file in the folder `path`, which goes with the process however that ends. EXISTING: the file
    // `path`, to be read only. Throws Error (what the system said).
    DiskFile(const std::string &path, Kind kind);
    ~DiskFile();
    DiskFile(const DiskFile &) = delete;
    DiskFile &operator=(const DiskFile &) = delete;

    uint64_t size() const; // bytes
    // Appends and waits until the disk has it; false: errno says why. `n` and `data`: multiples of 4096.
    bool append(const void *data, size_t n);
    // From now on reads go past the page cache; false: the file system refuses, `forget` has to do.
    bool go_direct();
    void forget(); // takes the file out of the page cache as far as the system lets us
    // Exactly `n` bytes. Offset, memory and `n` are multiples of 4096.
    bool read(uint64_t offset, void *out, size_t n) const;

  private:
    intptr_t handle_;
    uint64_t end_ = 0; // where the next append goes
};

} // namespace n730::platform
