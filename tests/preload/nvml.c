/* A driver that has the GPUs of $FAKE_GPUS, their UUIDs by commas, in the order of the bus; unset or empty, there is no
   driver. What NVIDIA's own Python client asks of it for us, and no more: what this lacks the client calls
   missing. No headers, so that the small compiler needs none. */

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };

struct memory { unsigned long long total, free, used; };
struct utilization { unsigned gpu, memory; };

extern char *getenv(const char *name);

/* Read at each call: a constructor would run before the environment is there. */
static const char *gpus(void) {
    const char *text = getenv("FAKE_GPUS");
    return text ? text : "";
}

static const char *uuid_of(unsigned long index) {
    const char *at = gpus();
    for (; index; at++) {
        if (!*at) return 0;
        if (*at == ',') index--;
    }
    return *at ? at : 0;
}

/* Up to a comma or the end of `from`. */
static int copy(const char *from, char *to, unsigned room) {
    unsigned n;
    for (n = 0; from[n] && from[n] != ','; n++) {
        if (n + 1 >= room) return INSUFFICIENT_SIZE;
        to[n] = from[n];
    }
    to[n] = 0;
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) { return *gpus() ? SUCCESS : DRIVER_NOT_LOADED; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Unknown Error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    for (*count = 0; uuid_of(*count); ++*count);
    return SUCCESS;
}

/* A handle is the index and one: never null. */
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (!uuid_of(index)) return INVALID_ARGUMENT;
    *device = (void *)((unsigned long)index + 1);
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned room) {
    return copy(uuid_of((unsigned long)device - 1), text, room);
}

int nvmlDeviceGetName(void *device, char *text, unsigned room) { return copy("Fake GPU", text, room); }

int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    memory->total = 16000000000ull;
    memory->used = 4000000000ull;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

static int same(const char *text, const char *uuid) {
    for (; *text && *text == *uuid; text++, uuid++);
    return !*text && (!*uuid || *uuid == ',');
}

int nvmlDeviceGetHandleByUUID(const char *text, void **device) {
    for (unsigned long index = 0; uuid_of(index); index++) {
        if (same(text, uuid_of(index))) {
            *device = (void *)(index + 1);
            return SUCCESS;
        }
    }
    return INVALID_ARGUMENT;
}

int nvmlDeviceGetUtilizationRates(void *device, struct utilization *rates) {
    rates->gpu = 37;
    rates->memory = 12;
    return SUCCESS;
}

/* Each its own, so that it shows which one was asked. */
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    *celsius = 40 + (unsigned long)device;
    return SUCCESS;
}
