package kafka

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/IBM/sarama"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	controlv1 "sluice/gen/sluice/control/v1"
)

// tokenTimeout bounds the request to the token endpoint; sarama holds the connection meanwhile.
const tokenTimeout = 10 * time.Second

func tokenProvider(s *controlv1.SASL) (sarama.AccessTokenProvider, error) {
	o := s.GetOauth()
	switch {
	case o != nil && s.GetToken() != nil:
		return nil, &ConfigError{saslField, errors.New("token and oauth exclude each other: set one")}
	case o != nil:
		clientSecret, err := secret(saslField+".oauth.client_secret", o.GetClientSecret())
		if err != nil {
			return nil, err
		}
		config := clientcredentials.Config{
			ClientID:     o.GetClientId(),
			ClientSecret: clientSecret,
			TokenURL:     o.GetTokenUrl(),
			Scopes:       o.GetScopes(),
		}
		ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Timeout: tokenTimeout})
		// The source keeps the token until shortly before it expires, so brokers share one.
		return fetchedToken{config.TokenSource(ctx), o.GetTokenUrl()}, nil
	case s.GetToken() != nil:
		if _, err := secret(saslField+".token", s.GetToken()); err != nil {
			return nil, err
		}
		return givenToken{s.GetToken()}, nil
	}
	return nil, &ConfigError{saslField, errors.New("OAUTHBEARER needs token, or oauth with token_url, client_id and client_secret")}
}

// givenToken reads the token for each connection: something else may renew the file.
type givenToken struct{ secret *controlv1.Secret }

func (g givenToken) Token() (*sarama.AccessToken, error) {
	t, err := secret(saslField+".token", g.secret)
	if err != nil {
		return nil, err
	}
	return &sarama.AccessToken{Token: t}, nil
}

type fetchedToken struct {
	source oauth2.TokenSource
	url    string
}

func (f fetchedToken) Token() (*sarama.AccessToken, error) {
	t, err := f.source.Token()
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.Response.StatusCode < 500 {
		// The body may repeat what was sent; the code says enough.
		return nil, &ConfigError{saslField + ".oauth", fmt.Errorf("%s refused the client: %s %s",
			f.url, refused.Response.Status, refused.ErrorCode)}
	}
	if err != nil {
		return nil, fmt.Errorf("%s.oauth.token_url: fetch a token: %w", saslField, err)
	}
	return &sarama.AccessToken{Token: t.AccessToken}, nil
}
