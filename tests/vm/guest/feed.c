// feed: shows files as the pictures of a v4l2loopback camera, one file a picture, round and round.
// usage: feed DEVICE FOURCC WIDTH HEIGHT FPS FILE...
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { PICTURE = 4 << 20 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

int main(int count, char **arguments) {
    if (count < 7 || strlen(arguments[2]) != 4)
        return fprintf(stderr, "usage: feed DEVICE FOURCC WIDTH HEIGHT FPS FILE...\n"), 2;
    const char *code = arguments[2];
    int width = atoi(arguments[3]), height = atoi(arguments[4]), fps = atoi(arguments[5]);
    char **files = arguments + 6;
    int number = count - 6;

    int device = open(arguments[1], O_RDWR);
    if (device < 0) fail(arguments[1]);
    struct v4l2_format format = {.type = V4L2_BUF_TYPE_VIDEO_OUTPUT};
    format.fmt.pix.width = width;
    format.fmt.pix.height = height;
    format.fmt.pix.pixelformat = v4l2_fourcc(code[0], code[1], code[2], code[3]);
    format.fmt.pix.field = V4L2_FIELD_NONE;
    format.fmt.pix.sizeimage = width * height * 3;
    format.fmt.pix.colorspace = V4L2_COLORSPACE_SRGB;
    if (ioctl(device, VIDIOC_S_FMT, &format)) fail("VIDIOC_S_FMT");
    struct v4l2_streamparm rate = {.type = V4L2_BUF_TYPE_VIDEO_OUTPUT};
    rate.parm.output.timeperframe.numerator = 1;
    rate.parm.output.timeperframe.denominator = fps;
    if (ioctl(device, VIDIOC_S_PARM, &rate)) fail("VIDIOC_S_PARM");

    struct { char *bytes; size_t length; } pictures[number];
    for (int i = 0; i < number; i++) {
        FILE *file = fopen(files[i], "rb");
        if (!file) fail(files[i]);
        pictures[i].bytes = malloc(PICTURE);
        pictures[i].length = fread(pictures[i].bytes, 1, PICTURE, file);
        fclose(file);
    }
    struct timespec due;
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (int i = 0;; i = (i + 1) % number) {
        if (write(device, pictures[i].bytes, pictures[i].length) < 0 && errno != EAGAIN) fail("write");
        due.tv_nsec += 1000000000 / fps;
        if (due.tv_nsec >= 1000000000) due.tv_nsec -= 1000000000, due.tv_sec++;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, 0);
    }
}
