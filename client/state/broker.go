package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// Broker is the deployment that the user works with, as `sallyport init` found it.
type Broker struct {
	URL     string `json:"url"`
	Console string `json:"console"`
	Stack   string `json:"stack"` // of CloudFormation
	Region  string `json:"region"`
}

const brokerFile = "broker.json"

type storedBroker struct {
	V int `json:"v"`
	Broker
}

// SaveBroker remembers the deployment; the login stays as it is.
func (d Dir) SaveBroker(b Broker) error {
	raw, err := json.Marshal(storedBroker{V: 1, Broker: b})
	if err != nil {
		return fmt.Errorf("save broker: %w", err)
	}
	if err := d.write(brokerFile, append(raw, '\n')); err != nil {
		return fmt.Errorf("save broker: %w", err)
	}
	return nil
}

// LoadBroker is the deployment that was remembered; the zero Broker when there is none.
func (d Dir) LoadBroker() (Broker, error) {
	raw, err := d.read(brokerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Broker{}, nil
	}
	if err != nil {
		return Broker{}, fmt.Errorf("load broker: %w", err)
	}
	var s storedBroker
	if err := decodeStrict(raw, &s); err != nil || s.V != 1 || s.URL == "" {
		return Broker{}, fmt.Errorf("load broker: %s cannot be understood: run `sallyport init` again", d.path(brokerFile))
	}
	return s.Broker, nil
}
