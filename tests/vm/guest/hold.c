// hold: another program that has a camera.
// usage: hold open DEVICE                         keep the device file open
//        hold stream DEVICE FOURCC WIDTH HEIGHT   stream pictures that nobody takes
//        hold set DEVICE FOURCC WIDTH HEIGHT      leave it in this format and go
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void stream(int device) {
    struct v4l2_requestbuffers request = {.count = 4, .type = V4L2_BUF_TYPE_VIDEO_CAPTURE, .memory = V4L2_MEMORY_MMAP};
    if (ioctl(device, VIDIOC_REQBUFS, &request)) fail("VIDIOC_REQBUFS");
    for (unsigned i = 0; i < request.count; i++) {
        struct v4l2_buffer buffer = {.index = i, .type = request.type, .memory = request.memory};
        if (ioctl(device, VIDIOC_QBUF, &buffer)) fail("VIDIOC_QBUF");
    }
    if (ioctl(device, VIDIOC_STREAMON, &request.type)) fail("VIDIOC_STREAMON");
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    int opens = !strcmp(what, "open"), streams = !strcmp(what, "stream"), sets = !strcmp(what, "set");
    if (!(opens && count == 3) && !((streams || sets) && count == 6 && strlen(arguments[3]) == 4))
        return fprintf(stderr, "usage: hold open|stream|set DEVICE [FOURCC WIDTH HEIGHT]\n"), 2;
    int device = open(arguments[2], O_RDWR);
    if (device < 0) fail(arguments[2]);
    if (!opens) {
        const char *code = arguments[3];
        struct v4l2_format format = {.type = V4L2_BUF_TYPE_VIDEO_CAPTURE};
        format.fmt.pix.width = atoi(arguments[4]);
        format.fmt.pix.height = atoi(arguments[5]);
        format.fmt.pix.pixelformat = v4l2_fourcc(code[0], code[1], code[2], code[3]);
        if (ioctl(device, VIDIOC_S_FMT, &format)) fail("VIDIOC_S_FMT");
    }
    if (streams) stream(device);
    puts("holding");
    fflush(stdout);
    if (!sets) pause();
    return 0;
}
