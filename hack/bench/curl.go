package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

var errNoCurl = errors.New("no curl here: apt-get install curl")

// cipher is what both sides of the comparison encrypt with. It is what Go takes; curl would take a slower one.
const cipher = "TLS_AES_128_GCM_SHA256"

// findCurl finds curl.
func findCurl() (string, error) {
	path, err := exec.LookPath("curl")
	if err != nil {
		return "", errNoCurl
	}
	return path, nil
}

// curled is what one run of curl showed.
type curled struct {
	seconds float64 // from the start to the last byte
	cpu     float64 // processor seconds of curl
}

// curl fetches a URL into nothing, trusting no other authority than that of the file, if it is HTTPS.
func curl(ctx context.Context, path, url string, size int64, authority string) (curled, error) {
	cmd := exec.CommandContext(ctx, path, "--silent", "--show-error", "--fail", "--http1.1", "--noproxy", "*",
		"--max-time", strconv.Itoa(int(fetchTime.Seconds())), "--tlsv1.3", "--tls13-ciphers", cipher, "--cacert", authority,
		"--output", "/dev/null", "--write-out", "%{size_download} %{time_total}", url)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return curled{}, fmt.Errorf("curl %s: %w: %s", url, err, strings.TrimSpace(complaint.String()))
	}
	var (
		n int64
		c curled
	)
	if _, err := fmt.Sscan(out.String(), &n, &c.seconds); err != nil {
		return curled{}, fmt.Errorf("curl %s: it printed %q: %w", url, out.String(), err)
	}
	if n != size {
		return curled{}, fmt.Errorf("curl %s: %d bytes instead of %d", url, n, size)
	}
	c.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	return c, nil
}
