package deployed

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Emulators that the template is deployed to.
const (
	MiniStack  = "ministack"
	LocalStack = "localstack"
)

// region of everything, and credentials that both emulators take for the account's own.
const region = "us-east-1"

var account = []string{"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_DEFAULT_REGION=" + region, "AWS_REGION=" + region}

const (
	emulatorReady = 60 * time.Second
	emulatorStop  = 15 * time.Second
	// emulatorIdle is how long a connection to one is kept: shorter than they keep it, or a call that cannot be made twice would fail as they close it.
	emulatorIdle = 2 * time.Second
)

// emulator is a running local AWS. url is where operators call it.
type emulator struct {
	*process
	kind   string
	url    string
	inside string  // where functions call it: through the ledger, which says that they come by TLS
	ledger *ledger // of what the functions call; nil where the emulator does not tell them apart
	served *http.Server
	done   chan struct{} // the ledger's server ended
}

func startEmulator(ctx context.Context, kind, root, dir string) (*emulator, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o700); err != nil {
		return nil, err
	}
	e := &emulator{kind: kind, url: "http://127.0.0.1:" + strconv.Itoa(port)}
	switch kind {
	case MiniStack:
		err = e.miniStack(ctx, root, dir, port)
	case LocalStack:
		err = e.localStack(ctx, root, dir, port)
	default:
		err = fmt.Errorf("local AWS %q: want %s or %s", kind, MiniStack, LocalStack)
	}
	if err != nil {
		e.stop()
		return nil, err
	}
	return e, nil
}

// miniStack runs with AUTH: it verifies signatures and holds every function to its role, the tables' and buckets' policies included.
func (e *emulator) miniStack(ctx context.Context, root, dir string, port int) error {
	program := filepath.Join(root, "build", "local-aws", "ministack", "bin", "python")
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("%w (run localstack/scripts/local-aws.sh)", err)
	}
	to, err := url.Parse(e.url)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	e.ledger, e.inside = newLedger(to), "http://"+l.Addr().String()
	e.served, e.done = &http.Server{Handler: e.ledger, ReadHeaderTimeout: 10 * time.Second}, make(chan struct{})
	go func() { defer close(e.done); _ = e.served.Serve(l) }() // until stop closes it
	cmd := exec.Command(program, filepath.Join(root, "localstack", "local-aws", "ministack_main.py"))
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + filepath.Join(dir, "tmp"), "BIND_HOST=127.0.0.1", "GATEWAY_PORT=" + strconv.Itoa(port),
		"IOT_MTLS_ENABLED=0", "AUTH=true", "AWS_ENDPOINT_URL=" + e.inside}, account...)
	if e.process, err = start("MiniStack", filepath.Join(dir, "ministack.log"), cmd); err != nil {
		return err
	}
	return e.await(ctx, emulatorReady, answers(e.url+"/_ministack/health"))
}

func (e *emulator) localStack(ctx context.Context, root, dir string, port int) error {
	at := filepath.Join(root, "build", "local-aws", "localstack")
	if _, err := os.Stat(filepath.Join(at, ".version")); err != nil {
		return fmt.Errorf("%w (run localstack/scripts/localstack.sh)", err)
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	cmd := exec.Command(filepath.Join(at, "venv", "bin", "python"), filepath.Join(root, "localstack", "local-aws", "localstack_main.py"))
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + filepath.Join(at, "venv", "bin") + ":" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + filepath.Join(dir, "tmp"),
		"FILESYSTEM_ROOT=" + filepath.Join(at, "root"), "GATEWAY_LISTEN=" + address, "LOCALSTACK_HOST=localhost:" + strconv.Itoa(port), "DNS_ADDRESS=0",
		"EAGER_SERVICE_LOADING=0", "DISABLE_EVENTS=1", "SKIP_SSL_CERT_DOWNLOAD=1", "SKIP_INFRA_DOWNLOADS=1", "OVERRIDE_IN_DOCKER=0",
		"LAMBDA_RUNTIME_EXECUTOR=process", "DISABLE_CORS_CHECKS=1", "DISABLE_CORS_HEADERS=1", // its own rules would refuse browsers at function URLs
		"LAMBDA_KEEPALIVE_MS=600000", "LAMBDA_SYNCHRONOUS_CREATE=0", "STRICT_SERVICE_LOADING=1",
		"SERVICES=cloudformation,cloudwatch,dynamodb,dynamodbstreams,events,iam,kms,kinesis,lambda,logs,s3,scheduler,secretsmanager,sns,sqs,ssm,sts"}, account...)
	var err error
	if e.process, err = start("LocalStack", filepath.Join(dir, "localstack.log"), cmd); err != nil {
		return err
	}
	return e.await(ctx, emulatorReady, answers(e.url+"/_localstack/health"))
}

// stop ends the local AWS and everything that it held.
func (e *emulator) stop() {
	_ = e.process.stop(emulatorStop) // LocalStack may take longer; it holds nothing that is wanted, and is killed
	if e.served != nil {
		_ = e.served.Close()
		<-e.done
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
