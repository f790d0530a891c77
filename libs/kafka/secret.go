package kafka

import (
	"errors"
	"fmt"
	"os"
	"strings"

	controlv1 "sluice/gen/sluice/control/v1"
)

// secret reads a secret where the pipeline says it is. The error names the place, never the content.
func secret(field string, s *controlv1.Secret) (string, error) {
	switch from := s.GetFrom().(type) {
	case *controlv1.Secret_Env:
		v, ok := os.LookupEnv(from.Env)
		if !ok {
			return "", &ConfigError{field, fmt.Errorf("environment variable %s is not set on this service", from.Env)}
		}
		if v == "" {
			return "", &ConfigError{field, fmt.Errorf("environment variable %s is empty on this service", from.Env)}
		}
		return v, nil
	case *controlv1.Secret_File:
		b, err := os.ReadFile(from.File)
		if err != nil {
			return "", &ConfigError{field, fmt.Errorf("read the secret on this service: %w", err)}
		}
		v := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
		if v == "" {
			return "", &ConfigError{field, fmt.Errorf("file %s is empty", from.File)}
		}
		return v, nil
	}
	return "", &ConfigError{field, errors.New("missing: name an environment variable (env) or a file (file) that holds it")}
}
