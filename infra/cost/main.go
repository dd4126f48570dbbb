// Command cost computes what a stack of infra/template.yaml costs at list prices, from the template's own resources and parameters.
// It refuses a parameter that the template does not have, and prints nothing that it did not compute.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// List prices in US dollars, us-east-1, arm64, on demand, without free tiers; August 2026. A region of your own: change them here.
const (
	lambdaRequest  = 0.20e-6      // a call
	lambdaGBSecond = 0.0000133334 // arm64
	dynamoWrite    = 0.625e-6     // a unit of 1 kB
	dynamoRead     = 0.125e-6     // a unit of 4 kB, strongly consistent
	dynamoStorage  = 0.25         // a GB and month; point-in-time recovery as much again nearly
	dynamoPITR     = 0.20
	kmsKey         = 1.00    // a month
	kmsSign        = 0.15e-4 // one signature with an ECC key
	alarm          = 0.10    // a month
	dashboard      = 3.00    // a month
	ownMetric      = 0.30    // a month and metric, whatever is in it
	secret         = 0.40    // a month
	s3Put          = 5e-6
	s3Get          = 0.4e-6
	s3Storage      = 0.023 // a GB and month
	athenaTB       = 5.00  // read
	athenaLeast    = 10e-6 // TB that each query counts as, at the least
	logGB          = 0.50
	fargateCPU     = 0.03238          // an hour of a processor, arm64
	fargateGB      = 0.00356          // an hour of a GB
	balancer       = 0.0225           // an hour; what it carries comes on top
	month          = 30.4 * 24 * 3600 // seconds
)

// What one call needs, but for DynamoDB's units, which are counted (see needs.go). The durations are assumptions, which nobody has measured on a
// real account yet: take them from your own stack's metrics, or `make bench-aws ENDPOINT=aws`.
const (
	secondsPerCall  = 0.015 // assumed
	secondsPerBatch = 0.025 // of 64 commands; assumed
	entryKB         = 0.75  // packed, with what DynamoDB adds to an item
	logKB           = 0.3
	sealsPerMonth   = month / 60 // scheduled ones; each signs when the log has grown
	copiesPerMonth  = month / 300
	secondsPerRow   = 1e-4 // read and written by copies; measured here
	rowKB           = 0.24 // of a copy with a hundred rows; 0.05 with thirty thousand
	lineKB          = 0.9  // of an entry in the log
	fileKB          = 20   // of a copy, however few its rows are
	opens           = 3    // requests that Athena makes for a file; assumed
	ownMetrics      = 9    // of the functions: those that the dashboard shows
	hours           = month / 3600
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "cost:", err)
		os.Exit(1)
	}
}

// template is what the costs depend on.
type template struct {
	parameters map[string]string
	count      map[string]int     // of resources, by type
	memory     map[string]float64 // in MB, by function
}

type line struct {
	dollars float64
	what    string
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("cost", flag.ContinueOnError)
	file := flags.String("template", "infra/template.yaml", "the template")
	decisions := flags.Float64("decisions", 1e6, "decisions a month")
	agents := flags.Float64("agents", 1, "agents with a live session, all month")
	tunnel := flags.String("tunnel", "infra/tunnel.yaml", "the relays' template; its parameters are given the same way")
	if err := flags.Parse(args); err != nil {
		return err
	}
	needs, err := readNeeds()
	if err != nil {
		return err
	}
	t, err := read(*file)
	if err != nil {
		return err
	}
	relays, err := read(*tunnel)
	if err != nil {
		return err
	}
	if len(t.memory) == 0 {
		return errors.New("the template has no functions, or no standard memory")
	}
	if err := override(flags.Args(), t, relays); err != nil {
		return err
	}
	for _, part := range []struct {
		title string
		lines []line
	}{
		{"A month of nothing", t.idle()},
		{"A month of relays, when they run on Fargate", relays.relays()},
		{fmt.Sprintf("%.0f decisions, %.0f agents with a session all month", *decisions, *agents), t.decisions(needs, *decisions, *agents)},
		{"A million decisions by the way they come: decide's calls, reads and writes alone; a choice, not a sum", t.ways(needs)},
		{"A thousand questions to Athena about that month; a choice, not a sum", t.questions(*decisions)},
		{"The most that a flood of unsigned calls can cost a day, by reserved concurrency", t.flood()},
	} {
		_, _ = fmt.Fprintf(out, "%s\n", part.title)
		sum := 0.0
		for _, l := range part.lines {
			_, _ = fmt.Fprintf(out, "  %9.2f  %s\n", l.dollars, l.what)
			sum += l.dollars
		}
		if !strings.HasSuffix(part.title, "not a sum") {
			_, _ = fmt.Fprintf(out, "  %9.2f  in all\n", sum)
		}
		_, _ = fmt.Fprintln(out)
	}
	return nil
}

// override puts PARAMETER=VALUE arguments over the defaults, in every template that has the parameter.
func override(arguments []string, templates ...template) error {
	for _, a := range arguments {
		k, v, ok := strings.Cut(a, "=")
		known := false
		for _, t := range templates {
			if _, has := t.parameters[k]; has {
				known, t.parameters[k] = true, v
			}
		}
		if !ok || !known {
			return fmt.Errorf("%q: the templates have no such parameter", a)
		}
	}
	return nil
}

// read takes the template's defaults.
func read(file string) (template, error) {
	t := template{memory: map[string]float64{}}
	b, err := os.ReadFile(file)
	if err != nil {
		return t, err
	}
	var doc struct {
		Parameters map[string]struct {
			Default string `yaml:"Default"`
		} `yaml:"Parameters"`
		Globals struct {
			Function yaml.Node `yaml:"Function"`
		} `yaml:"Globals"`
		Resources map[string]struct {
			Type       string    `yaml:"Type"`
			Properties yaml.Node `yaml:"Properties"`
		} `yaml:"Resources"`
	}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return t, err
	}
	t.parameters = map[string]string{}
	for k, p := range doc.Parameters {
		t.parameters[k] = p.Default
	}
	standard := number(&doc.Globals.Function, "MemorySize")
	t.count = map[string]int{}
	for name, r := range doc.Resources {
		t.count[r.Type]++
		if f, ok := strings.CutSuffix(name, "Function"); ok {
			if t.memory[f] = number(&r.Properties, "MemorySize"); t.memory[f] == 0 {
				t.memory[f] = standard
			}
		}
	}
	if len(t.parameters) == 0 || len(t.count) == 0 {
		return t, fmt.Errorf("%s is no template", file)
	}
	return t, nil
}

// number is a plain number in a mapping; 0 where there is none.
func number(m *yaml.Node, key string) float64 {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			n, _ := strconv.ParseFloat(m.Content[i+1].Value, 64) // what is no number is none
			return n
		}
	}
	return 0
}

func (t template) call(function string, seconds float64) float64 {
	return lambdaRequest + t.memory[function]/1024*seconds*lambdaGBSecond
}

func (t template) idle() []line {
	return []line{
		{float64(t.count["AWS::KMS::Key"]) * kmsKey, fmt.Sprintf("%d KMS keys", t.count["AWS::KMS::Key"])},
		{float64(t.count["AWS::CloudWatch::Alarm"]) * alarm, fmt.Sprintf("%d alarms", t.count["AWS::CloudWatch::Alarm"])},
		{sealsPerMonth * (t.call("Seal", 0.1) + 2*dynamoRead), "seal, once a minute"},
		{sealsPerMonth * (t.call("Notify", 0.02) + 2*dynamoRead), "notify, once a minute"},
		{copiesPerMonth * (t.call("Copies", 0.1) + 2*s3Get), "copies, every five minutes"},
		{float64(t.count["AWS::CloudWatch::Dashboard"])*dashboard + ownMetrics*ownMetric, fmt.Sprintf("a dashboard, %d metrics of our own", ownMetrics)},
		{float64(t.secrets()) * secret, fmt.Sprintf("%d secrets, as the parameters ask for them", t.secrets())},
	}
}

// secrets are those that the stack makes: one signs webhooks, one is between the distribution and what is behind it.
func (t template) secrets() int {
	n := 0
	for _, p := range []string{"WebhookUrl", "CertificateArn"} {
		if t.parameters[p] != "" {
			n++
		}
	}
	return n
}

func (t template) number(parameter string) float64 {
	n, _ := strconv.ParseFloat(t.parameters[parameter], 64) // what is no number is none
	return n
}

// relays are those that always run; more come and go with the load.
func (t template) relays() []line {
	n, cpu, gb := t.number("MinRelays"), t.number("Cpu")/1024, t.number("Memory")/1024
	return []line{
		{n * hours * (cpu*fargateCPU + gb*fargateGB), fmt.Sprintf("%.0f relays of %.2f processors and %.1f GB", n, cpu, gb)},
		{hours * balancer, "the load balancer; what it carries comes on top"},
		{float64(t.count["AWS::CloudWatch::Alarm"])*alarm + secret, fmt.Sprintf("%d alarms, a secret", t.count["AWS::CloudWatch::Alarm"])},
	}
}

func (t template) decisions(needs map[string]need, n, agents float64) []line {
	polls := agents * month
	hot, first := needs[oneCommand], needs[firstOfSecond]
	return []line{
		{n * t.call("Decide", secondsPerCall), "decide: calls of one command; a call carries up to 64"},
		{n * hot.writes * dynamoWrite, "entries written"},
		{n * hot.reads * dynamoRead, "the login's root, read strongly by each"},
		{min(n, polls) * (first.reads - hot.reads) * dynamoRead, "policy, agent and session, read again each second in which there are decisions"},
		{n * (t.call("Record", secondsPerCall)/8 + dynamoWrite), "outcomes, eight a call"},
		{polls * (t.call("Changes", secondsPerCall) + 3*dynamoRead), "changes, once a second for each agent with a session"},
		{min(n, sealsPerMonth) * (kmsSign + 4*s3Put), "checkpoints: a signature and four objects, at most one a minute"},
		{n * 2 * entryKB / 4 * dynamoRead, "seal reads each entry and outcome once"},
		{n * 2 * entryKB / 1e6 * (dynamoStorage + dynamoPITR), "storage of entries and outcomes, a month of it"},
		{n*2*secondsPerRow*t.memory["Copies"]/1024*lambdaGBSecond + min(n, copiesPerMonth)*(3*s3Put+3*s3Get) + min(n, sealsPerMonth)*s3Get,
			"copies for SQL: their rows, three objects a run, each segment read again"},
		{(n*2*rowKB + min(n, copiesPerMonth)*fileKB) / 1e6 * s3Storage, "storage of the copies, a month of it"},
		{n * logKB / 1e6 * logGB, "logs"},
	}
}

// questions are what a thousand of one kind cost, of a month's decisions: what Athena reads at the most, and the files that it opens.
func (t template) questions(n float64) []line {
	ask := func(rows, kb, files float64) float64 {
		return max(rows*kb/1e9, athenaLeast)*athenaTB + files*opens*s3Get
	}
	const days = month / 86400
	files := min(n, copiesPerMonth)
	return []line{
		{1000 * ask(2*n/days, rowKB, files/days), fmt.Sprintf("over a day of %.0f decisions: %.0f files", n/days, files/days)},
		{1000 * ask(2*n, rowKB, files), fmt.Sprintf("over all days: %.0f files; made anew, the copies are few", files)},
		{1000 * ask(2*n, lineKB, min(n, sealsPerMonth)), fmt.Sprintf("over the log's own lines: %.0f segments, always all of them", min(n, sealsPerMonth))},
	}
}

// flood is what somebody can make the functions do who signs nothing: ten calls a second for each reserved execution, refused before
// any table is asked.
func (t template) flood() []line {
	var all []line
	for _, f := range []string{"Decide", "Changes", "Token", "Record", "Approve", "Enroll"} {
		if t.parameters["AgentAccess"] == "aws" && (f == "Decide" || f == "Changes" || f == "Record") {
			all = append(all, line{0, strings.ToLower(f) + ": AWS refuses what no AWS identity signed; no function runs"})
			continue
		}
		c, err := strconv.ParseFloat(t.parameters[f+"Concurrency"], 64)
		if err != nil || c == 0 {
			all = append(all, line{0, strings.ToLower(f) + ": nothing is reserved, so the account's limit is the bound"})
			continue
		}
		all = append(all, line{c * 10 * 86400 * t.call(f, 0.002), fmt.Sprintf("%s, %.0f reserved", strings.ToLower(f), c)})
	}
	return all
}
