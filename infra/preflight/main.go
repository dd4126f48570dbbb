// Command preflight says, before a stack is deployed, what CloudFormation would refuse of its parameters: PARAMETER=VALUE arguments, or with
// "-" a JSON object on standard input. It refuses with the template's own sentences, and calls nobody.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sallyport/sallyport/infra/refuse"
)

func main() {
	if err := run(os.Args[1:], os.Stdin); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "preflight:", err)
		os.Exit(1)
	}
}

// maxInput bounds what is read: CloudFormation takes 200 parameters of 4096 bytes.
const maxInput = 1 << 20

func run(args []string, in io.Reader) error {
	flags := flag.NewFlagSet("preflight", flag.ContinueOnError)
	file := flags.String("template", "infra/template.yaml", "the template")
	if err := flags.Parse(args); err != nil {
		return err
	}
	given, err := parameters(flags.Args(), in)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	t, err := refuse.Read(b)
	if err != nil {
		return fmt.Errorf("%s: %w", *file, err)
	}
	return t.Error(*file, given)
}

func parameters(args []string, in io.Reader) (map[string]string, error) {
	given := map[string]string{}
	for _, a := range args {
		if a == "-" {
			d := json.NewDecoder(io.LimitReader(in, maxInput))
			if err := d.Decode(&given); err != nil {
				return nil, fmt.Errorf("read parameters: %w", err)
			}
			continue
		}
		k, v, ok := strings.Cut(a, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not PARAMETER=VALUE", a)
		}
		given[k] = v
	}
	return given, nil
}
